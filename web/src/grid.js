// The grid of thumbnails: find, sort, filter; marks on what is brushed.
import {column, data, make, say, state} from './data.js';

const list = document.getElementById('cards');
const cards = list ? [...list.children] : [];
const find = document.getElementById('find');
const status = document.getElementById('status');
const order = document.getElementById('order');
const only = document.getElementById('only');
const collator = new Intl.Collator(undefined, {numeric: true});
const figure = key => i => data.images[i][key] ?? NaN;
const objects = i => Object.values(data.images[i].objects)[0] ?? NaN;
const ORDERS = {
  place: null, name: null,
  'most objects': [objects, -1], 'fewest objects': [objects, 1], 'least sharp': [figure('sharpness'), 1],
  'most saturated': [figure('saturated'), -1], 'largest image': [i => data.images[i].width * data.images[i].height, -1],
  slowest: [figure('seconds'), -1], 'most brushed': [i => brushed[i], -1],
};
let brushed = new Uint32Array(data.images.length);
/** The images as they are shown, by number. */
export let shownImages = data.images.map((_, i) => i);

function texts(one) {
  return [one.name, one.source, one.reason, one.status, ...Object.values(one.fields), ...one.notes].join('\n').toLowerCase();
}
const known = data.images.map(texts);

export function arrange() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const keep = i => words.every(word => known[i].includes(word)) && (!status.value || data.images[i].status === status.value)
    && (!only.checked || brushed[i] > 0);
  const all = data.images.map((_, i) => i);
  const by = ORDERS[order.value];
  if (order.value === 'name') all.sort((a, b) => collator.compare(data.images[a].name, data.images[b].name) || a - b);
  else if (by) {
    const [of, sign] = by;
    const last = value => (Number.isNaN(value) ? Infinity : value * sign);
    all.sort((a, b) => last(of(a)) - last(of(b)) || a - b);
  }
  shownImages = all.filter(keep);
  const kept = new Set(shownImages);
  cards.forEach((card, i) => { card.hidden = !kept.has(i); });
  list.append(...all.map(i => cards[i]));
  const text = `${shownImages.length.toLocaleString()} of ${data.images.length.toLocaleString()} images`;
  document.getElementById('shown').textContent = text;
  return text;
}

// Marks: small rings at the brushed objects, drawn for the cards that are on the screen.
const inView = new Set();
const watch = new IntersectionObserver(entries => entries.forEach(({target, isIntersecting}) => {
  if (isIntersecting) {
    inView.add(target);
    mark(target);
  } else inView.delete(target);
}), {rootMargin: '200px'});

async function mark(card) {
  const i = Number(card.dataset.i);
  const frame = card.querySelector('.pic');
  frame.querySelector('canvas')?.remove();
  const badge = card.querySelector('.badge');
  badge.hidden = !state.chosen || !brushed[i];
  badge.textContent = badge.hidden ? '' : `${brushed[i].toLocaleString()} brushed`;
  const picture = frame.querySelector('img');
  const one = data.images[i];
  if (badge.hidden || !picture || !one.width) return;
  const {set, chosen} = state;
  const [ys, xs] = await centres(set);
  if (!ys || state.chosen !== chosen) return;
  const canvas = make('canvas', '', {'aria-hidden': 'true'});
  const box = frame.getBoundingClientRect();
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  const pen = canvas.getContext('2d');
  const times = Math.min(canvas.width / one.width, canvas.height / one.height);
  const [left, top] = [(canvas.width - one.width * times) / 2, (canvas.height - one.height * times) / 2];
  const radius = 4 * ratio;
  for (const [width, color] of [[3.5 * ratio, '#000'], [1.8 * ratio, '#ff9d2e']]) {
    pen.lineWidth = width;
    pen.strokeStyle = color;
    pen.beginPath();
    for (let row = set.starts[i]; row < set.starts[i + 1]; row++) {
      if (!chosen[row]) continue;
      const [x, y] = [left + (xs[row] + 0.5) * times, top + (ys[row] + 0.5) * times];
      pen.moveTo(x + radius, y);
      pen.arc(x, y, radius, 0, 7);
    }
    pen.stroke();
  }
  frame.querySelector('canvas')?.remove();
  frame.append(canvas);
}

const middles = new Map();
/** Where the objects of a table lie: [ys, xs], or [] where it does not say. */
export function centres(set) {
  if (!middles.has(set)) {
    middles.set(set, (async () => {
      if (set.boxes) {
        const [x0, y0, x1, y1] = await Promise.all(['x0', 'y0', 'x1', 'y1'].map(name => column(set, name)));
        return [y0.values.map((v, i) => (v + y1.values[i] - 1) / 2), x0.values.map((v, i) => (v + x1.values[i] - 1) / 2)];
      }
      const [ys, xs] = await Promise.all([column(set, 'centroid_y'), column(set, 'centroid_x')]);
      return ys && xs ? [ys.values, xs.values] : [];
    })());
  }
  return middles.get(set);
}

export function countBrushed() {
  brushed = new Uint32Array(data.images.length);
  const {set, chosen} = state;
  if (set && chosen) {
    for (let i = 0; i < data.images.length; i++) {
      for (let row = set.starts[i]; row < set.starts[i + 1]; row++) brushed[i] += chosen[row];
    }
  }
  return brushed.reduce((sum, one) => sum + (one > 0), 0);
}

export function startGrid(open) {
  if (!list) return;
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(() => say(arrange()), 80);
  };
  find.addEventListener('input', later);
  [status, order, only].forEach(one => one.addEventListener('change', () => say(arrange())));
  list.addEventListener('click', event => {
    const card = event.target.closest('.card');
    if (card && event.target.closest('.pic')) open(Number(card.dataset.i));
  });
  cards.forEach(card => watch.observe(card));
  state.listeners.push(() => {
    const images = countBrushed();
    only.disabled = !state.chosen;
    if (!state.chosen) only.checked = false;
    if (only.checked || order.value === 'most brushed') arrange();
    inView.forEach(mark);
    document.getElementById('brushed').textContent = state.chosen
      ? `${state.count.toLocaleString()} objects brushed in ${images.toLocaleString()} images` : '';
  });
}
