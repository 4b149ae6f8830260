// What stands out, one click away: objects as small pictures and in the table, images at the head of the grid.
import {address, column, data, imageOf, make, say, shown, state} from './data.js';
import {arrange, centres} from './grid.js';
import {clearLimits} from './plots.js';
import {sortTable} from './table.js';

const MOST = 24;
const SIDE = 96;
const OBJECTS = [
  ['largest', ['area'], 'desc'], ['smallest', ['area'], 'asc'],
  ['least round', ['roundness', 'solidity'], 'asc'], ['most elongated', ['eccentricity'], 'desc'],
  ['out of focus', ['sharpness'], 'asc'], ['saturated', ['saturated', 'max_'], 'desc'],
  ['lowest score', ['score'], 'asc'],
];
const IMAGES = [['images out of focus', 'least sharp', 'sharpness'], ['images saturated', 'most saturated', 'saturated'],
  ['most objects', 'most objects', ''], ['fewest objects', 'fewest objects', ''], ['slowest', 'slowest', '']];

export async function extremes(name, direction) {
  const {set} = state;
  const {values} = await column(set, name);
  const sign = direction === 'desc' ? -1 : 1;
  const rows = Uint32Array.from(values, (_, i) => i).filter(i => !Number.isNaN(values[i]));
  return [...rows.sort((a, b) => (values[a] - values[b]) * sign || a - b).subarray(0, MOST)];
}

const pictures = new Map();
const picture = url => {
  if (!pictures.has(url)) {
    pictures.set(url, new Promise(done => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => done(null);
      image.src = url;
    }));
  }
  return pictures.get(url);
};

/** A small picture of an object and what is around it. */
async function crop(row) {
  const {set} = state;
  const canvas = make('canvas', '', {width: SIDE, height: SIDE, 'aria-hidden': 'true'});
  const one = data.images[imageOf(set, row)];
  const base = one.images[0];
  const [ys, xs] = await centres(set);
  if (!base || !ys) return canvas;
  const area = (await column(set, 'area'))?.values[row] ?? 900;
  const across = Math.max(24, Math.sqrt(area) * 2.2);
  let [x, y, times, url] = [xs[row] + 0.5, ys[row] + 0.5, 1, ''];
  if (base.dzi) {
    const [column_, row_] = [Math.floor(x / base.tile), Math.floor(y / base.tile)];
    url = address(`${base.dzi}_files/${base.max}/${column_}_${row_}.${base.form}`);
    [x, y] = [x - column_ * base.tile, y - row_ * base.tile];
  } else url = address(base.file);
  const image = await picture(url);
  if (!image) return canvas;
  if (!base.dzi) times = image.naturalWidth / one.width;
  const pen = canvas.getContext('2d');
  pen.drawImage(image, (x - across / 2) * times, (y - across / 2) * times, across * times, across * times, 0, 0, SIDE, SIDE);
  return canvas;
}

export function startOutliers(open) {
  const host = document.getElementById('outliers');
  if (!host) return;
  const strip = document.getElementById('strip');
  const press = pressed => host.querySelectorAll('button').forEach(b => b.setAttribute('aria-pressed', b === pressed));
  const fill = () => {
    host.replaceChildren();
    strip.replaceChildren();
    for (const [label, names, direction] of state.set ? OBJECTS : []) {
      const about = names.map(n => state.set.columns.find(c => !c.words && c.name.startsWith(n))).find(Boolean);
      if (!about) continue;
      const button = make('button', label, {type: 'button', 'aria-pressed': 'false', title: `by ${about.name}`});
      button.addEventListener('click', async () => {
        press(button);
        const rows = await extremes(about.name, direction);
        const {values} = await column(state.set, about.name);
        clearLimits();
        const mask = new Uint8Array(state.set.starts.at(-1));
        rows.forEach(row => { mask[row] = 1; });
        state.choose(mask, label);
        sortTable(about.name, direction);
        strip.replaceChildren(...await Promise.all(rows.map(async row => {
          const name = data.images[imageOf(state.set, row)].name;
          const item = make('li');
          const one = make('button', '', {type: 'button', class: 'crop', 'aria-label': `${about.name} ${shown(about, values[row])} in ${name}: open it`});
          one.append(await crop(row), make('span', Number.isInteger(values[row]) ? shown(about, values[row]) : Number(values[row].toPrecision(4))));
          one.addEventListener('click', () => open(imageOf(state.set, row), row));
          item.append(one);
          return item;
        })));
        say(`${rows.length} objects: ${label}, by ${about.name}`);
      });
      host.append(button);
    }
    for (const [label, order, key] of IMAGES) {
      if (key && !data.images.some(one => key in one)) continue;
      if (!data.images.length) continue;
      const button = make('button', label, {type: 'button', 'aria-pressed': 'false', class: 'of-images'});
      button.addEventListener('click', () => {
        press(button);
        document.getElementById('order').value = order;
        say(`${label} first: ${arrange()}`);
        document.getElementById('images').scrollIntoView();
      });
      host.append(button);
    }
  };
  fill();
  document.getElementById('set')?.addEventListener('change', () => setTimeout(fill));
}
