// One image at full size: pan and zoom by OpenSeadragon, layers and contours over it, a click for an object's row.
import OpenSeadragon from 'openseadragon';
import {address, column, data, load, make, say, shown, state} from './data.js';
import {centres, shownImages} from './grid.js';
import {Labels} from './labels.js';

const dialog = document.getElementById('viewer');
const part = name => dialog.querySelector(`[data-part=${name}]`);
const MARK = [255, 157, 46];
const palette = image => data.palettes[image.bright ? 1 : 0];
let osd = null;
let pen = null;
let now = null;  // what is open: {number, image, labels, parts, pictures, layers, row, set}
let was = null;  // what had the focus before

const source = (one, image) => (one.dzi ? {
  width: image.width, height: image.height, tileSize: one.tile, tileOverlap: 0, minLevel: one.min, maxLevel: one.max,
  getTileUrl: (level, x, y) => address(`${one.dzi}_files/${level}/${x}_${y}.${one.form}`),
} : {type: 'image', url: address(one.file), buildPyramid: false});

function start() {
  osd = new OpenSeadragon.Viewer({
    element: part('stage'), drawer: 'canvas', showNavigationControl: false, crossOriginPolicy: false,
    gestureSettingsMouse: {clickToZoom: false, dblClickToZoom: true}, gestureSettingsTouch: {clickToZoom: false},
    maxZoomPixelRatio: 40, minZoomImageRatio: 0.5, visibilityRatio: 0.3, animationTime: 0.35, springStiffness: 9,
    imageSmoothingEnabled: false, immediateRender: true, preserveImageSizeOnResize: true, tabIndex: 0,
  });
  const canvas = make('canvas', '', {class: 'marks', 'aria-hidden': 'true'});
  osd.canvas.append(canvas);
  pen = canvas.getContext('2d');
  osd.canvas.setAttribute('aria-label', 'The image: arrow keys move it, plus and minus zoom, 0 shows all of it');
  osd.canvas.setAttribute('role', 'application');
  osd.addHandler('update-viewport', draw);
  osd.addHandler('open', draw);
  osd.addHandler('resize', () => requestAnimationFrame(draw));
  osd.addHandler('canvas-click', event => {
    if (!event.quick || !now) return;
    const at = osd.viewport.viewerElementToViewportCoordinates(event.position);
    const x = at.x * now.image.width;
    const y = at.y * now.image.width;
    pick(Math.floor(x), Math.floor(y));
  });
  window.cellkit.viewer = {osd, get now() { return now; }, pick, frame};
}

/** Where the image lies on the screen: its top left corner and the pixels of the screen that one of it takes. */
function frame() {
  const origin = osd.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  const end = osd.viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
  return {x: origin.x, y: origin.y, scale: (end.x - origin.x) / now.image.width};
}

const value = key => Number(now.knobs.get(key)?.range?.value ?? 100) / 100;
const on = key => now.knobs.get(key)?.box.checked ?? false;

function draw() {
  if (!now || !osd.viewport) return;
  const {clientWidth: width, clientHeight: height} = osd.canvas;
  const ratio = window.devicePixelRatio || 1;
  const {canvas} = pen;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  }
  const {x, y, scale} = frame();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.save();
  pen.translate(x, y);
  pen.scale(scale, scale);
  pen.imageSmoothingEnabled = scale < 1;
  const view = [Math.max(0, Math.floor(-x / scale)), Math.max(0, Math.floor(-y / scale)),
    Math.min(now.image.width, Math.ceil((width - x) / scale)), Math.min(now.image.height, Math.ceil((height - y) / scale))];
  if (now.labels) {
    if (on('fill')) {
      pen.globalAlpha = value('fill');
      pen.drawImage(now.pictures.fill ??= now.labels.picture(i => [...now.labels.color(i), 255]), 0, 0);
      pen.globalAlpha = 1;
    }
    if (now.pictures.chosen) pen.drawImage(now.pictures.chosen, 0, 0);
    if (on('contours')) {
      pen.globalAlpha = value('contours');
      if (scale < 2) {
        pen.drawImage(now.pictures.edges ??= now.labels.picture((i, edge) => (edge ? [...now.labels.color(i), 255] : null)), 0, 0);
      } else {
        pen.lineWidth = 1.6 / scale;
        now.labels.outlines(view, 0.8 / scale).forEach((path, color) => {
          pen.strokeStyle = `rgb(${now.labels.palette[color].join()})`;
          pen.stroke(path);
        });
      }
      pen.globalAlpha = 1;
    }
    if (now.object >= 0) {
      const paths = now.labels.outlines(view, 0, now.object);
      for (const [color, thick] of [['#000', 5], ['#fff', 2.5]]) {
        pen.strokeStyle = color;
        pen.lineWidth = thick / scale;
        paths.forEach(path => pen.stroke(path));
      }
    }
  }
  if (now.boxes) drawBoxes(scale);
  pen.restore();
  if (now.marks) drawMarks(x, y, scale, width, height);
  dialog.querySelector('[data-part=zoom]').textContent = `${Math.round(scale * 100)} %`;
}

function drawBoxes(scale) {
  const {set} = now;
  const [x0, y0, x1, y1, kinds] = now.boxes;
  for (let row = set.starts[now.number]; row < set.starts[now.number + 1]; row++) {
    const chosen = row === now.row;
    const lit = state.chosen && state.set === set && state.chosen[row];
    if (!on('contours') && !chosen && !lit) continue;
    const colors = palette(now.image);
    const color = colors[(kinds?.values[row] ?? 0) % colors.length];
    const side = [x0.values[row], y0.values[row], x1.values[row] - x0.values[row], y1.values[row] - y0.values[row]];
    if (lit) {
      pen.fillStyle = `rgba(${MARK.join()},.45)`;
      pen.fillRect(...side);
    }
    for (const [style, thick] of chosen ? [['#000', 5], ['#fff', 2.5]] : [[`rgb(${color.join()})`, 1.6]]) {
      pen.strokeStyle = style;
      pen.lineWidth = thick / scale;
      pen.strokeRect(...side);
    }
  }
}

/** Rings at brushed objects of images that are shown from tiles, and a box around the one that is chosen. */
function drawMarks(x, y, scale, width, height) {
  const {set, marks: [ys, xs]} = now;
  for (const [color, thick] of [['#000', 4], [`rgb(${MARK.join()})`, 2]]) {
    pen.strokeStyle = color;
    pen.lineWidth = thick;
    pen.beginPath();
    for (let row = set.starts[now.number]; row < set.starts[now.number + 1]; row++) {
      if (row !== now.row && !(state.chosen && state.set === set && state.chosen[row])) continue;
      const [left, top] = [x + (xs[row] + 0.5) * scale, y + (ys[row] + 0.5) * scale];
      if (left < -20 || top < -20 || left > width + 20 || top > height + 20) continue;
      const radius = Math.max(6, (now.sizes ? Math.sqrt(now.sizes[row]) * 0.7 : 0) * scale) + (row === now.row ? 4 : 0);
      pen.moveTo(left + radius, top);
      pen.arc(left, top, radius, 0, 7);
    }
    pen.stroke();
  }
}

async function lightUp() {
  if (!now) return;
  const mine = now;
  now.pictures.chosen = null;
  if (state.chosen && now.labels && state.set === now.set) {
    const ids = await column(now.set, now.set.id);
    const chosen = new Set();
    for (let row = now.set.starts[now.number]; row < now.set.starts[now.number + 1]; row++) {
      if (state.chosen[row]) chosen.add(ids.values[row]);
    }
    const lit = Uint8Array.from(mine.labels.ids, id => Number(chosen.has(Number(id))));
    mine.pictures.chosen = mine.labels.picture(i => (lit[i] ? [...MARK, 150] : null));
    mine.lit = lit.reduce((sum, one) => sum + one, 0);
  } else mine.lit = 0;
  if (mine === now) draw();
}

/** Switches and sliders: what is shown, and how strongly. */
function knob(key, label, {checked = true, strength = 100, legend = null, change = draw} = {}) {
  const row = make('div', '', {class: 'knob'});
  const id = `knob-${now.knobs.size}`;
  const box = make('input', '', {type: 'checkbox', id});
  box.checked = checked;
  const text = make('label', label, {for: id});
  const range = make('input', '', {type: 'range', min: '0', max: '100', value: String(strength), 'aria-label': `opacity of ${label}`});
  row.append(box, text, range);
  if (legend?.length) row.append(make('span', `${legend[0]} `, {class: 'low'}), make('i', '', {class: 'viridis'}), make('span', ` ${legend[1]}`));
  box.addEventListener('change', () => change());
  range.addEventListener('input', () => change());
  now.knobs.set(key, {box, range});
  part('layers').append(row);
}

async function addLayers(mine) {
  const {image, number} = mine;
  const lay = (key, item) => () => item()?.setOpacity(on(key) ? value(key) : 0);
  let base = null;
  knob('image', 'image', {change: lay('image', () => base)});
  const add = (one, opacity, index) => new Promise(done => {
    osd.addTiledImage({tileSource: source(one, image), width: 1, opacity, index, success: ({item}) => done(item), error: () => done(null)});
  });
  const setBase = async one => {
    const next = one ? await add(one, on('image') ? value('image') : 0, 0) : null;
    if (mine !== now) return;
    if (base) osd.world.removeItem(base);
    base = next;
  };
  if (image.images.length) await setBase(image.images[0]);
  if (mine !== now) return;
  if (image.images.length > 1) {
    const row = make('div', '', {class: 'knob'});
    const select = make('select', '', {'aria-label': 'channels shown'});
    image.images.forEach((one, i) => {
      const option = make('option', one.name);
      option.value = i;
      select.append(option);
    });
    select.addEventListener('change', () => setBase(image.images[Number(select.value)]));
    row.append(select);
    part('layers').append(row);
  }
  for (const [i, one] of image.layers.entries()) {
    let item = null;
    const key = `layer${i}`;
    knob(key, one.name, {checked: false, strength: 60, legend: one.legend, change: async () => {
      if (!item && on(key)) item = await add(one, 0);
      lay(key, () => item)();
    }});
  }
  if (image.labels.length) {
    const names = image.labels.map(one => one.name);
    if (names.length > 1) {
      const row = make('div', '', {class: 'knob'});
      const select = make('select', '', {'aria-label': 'objects of which labels'});
      names.forEach((name, i) => {
        const option = make('option', `objects: ${name}`);
        option.value = i;
        select.append(option);
      });
      select.addEventListener('change', () => setLabels(mine, Number(select.value)));
      row.append(select);
      part('layers').append(row);
    }
    const deep = image.labels[0].dzi;
    knob('contours', 'contours', {change: () => {
      mine.lines?.setOpacity(on('contours') ? value('contours') : 0);
      draw();
    }});
    if (!deep) knob('fill', names.length > 1 ? 'filled' : names[0], {checked: !image.images.length, strength: 45});
    await setLabels(mine, Math.max(0, names.indexOf(state.set?.layer)), add);
  } else {
    const set = data.sets.find(one => one.boxes && one.starts[number + 1] > one.starts[number]);
    if (set) {
      knob('contours', 'boxes');
      mine.set = set;
      mine.boxes = await Promise.all(['x0', 'y0', 'x1', 'y1', 'class'].map(name => column(set, name)));
    }
  }
  if (mine === now) {
    await lightUp();
    draw();
  }
}

async function setLabels(mine, which) {
  const one = mine.image.labels[which];
  mine.set = data.sets.find(set => set.layer === one.name) ?? null;
  mine.object = mine.row = -1;
  mine.pictures = {};
  if (one.dzi) {
    mine.lines && osd.world.removeItem(mine.lines);
    mine.lines = await new Promise(done => {
      osd.addTiledImage({tileSource: source(one, mine.image), width: 1, success: ({item}) => done(item), error: () => done(null)});
    });
    mine.parts = one;
    if (mine.set) {
      [mine.marks, mine.sizes] = await Promise.all([centres(mine.set), column(mine.set, 'area').then(c => c?.values)]);
      if (!mine.marks.length) mine.marks = null;
    }
  } else mine.labels = new Labels(await load(one.file), palette(mine.image));
  if (mine === now) {
    await lightUp();
    draw();
  }
}

async function rowOf(set, number, id) {
  if (!set?.id) return -1;
  const ids = (await column(set, set.id)).values;
  for (let row = set.starts[number]; row < set.starts[number + 1]; row++) if (Number(ids[row]) === id) return row;
  return -1;
}

/** Choose the object at a pixel of the image. */
async function pick(x, y) {
  const mine = now;
  if (mine.boxes) {
    const [x0, y0, x1, y1] = mine.boxes.map(one => one?.values);
    let [best, least] = [-1, Infinity];
    for (let row = mine.set.starts[mine.number]; row < mine.set.starts[mine.number + 1]; row++) {
      const size = (x1[row] - x0[row]) * (y1[row] - y0[row]);
      if (x >= x0[row] && x < x1[row] && y >= y0[row] && y < y1[row] && size < least) [best, least] = [row, size];
    }
    await chooseRow(best);
    return;
  }
  let [labels, left, top] = [mine.labels, 0, 0];
  if (mine.parts) {
    const {part: side, parts, name} = mine.parts;
    const index = Math.floor(y / side) * Math.ceil(mine.image.width / side) + Math.floor(x / side);
    [left, top] = [Math.floor(x / side) * side, Math.floor(y / side) * side];
    labels = parts.includes(index) ? new Labels(await load(`labels/${name}-${mine.number}-${index}`), palette(mine.image)) : null;
  }
  const object = labels ? labels.at(x - left, y - top) : -1;
  if (mine !== now) return;
  if (object < 0) {
    mine.object = mine.row = -1;
    await tell(null);
    return;
  }
  const id = Number(labels.ids[object]);
  mine.row = await rowOf(mine.set, mine.number, id);
  mine.object = mine.labels ? object : -1;
  await tell(id);
}

/** Choose the object of a row of the table, and show it in the middle if it is not on the screen. */
async function chooseRow(row, middle = false) {
  const mine = now;
  mine.row = row;
  mine.object = -1;
  let id = null;
  if (row >= 0 && mine.set) {
    if (mine.set.id) {
      id = Number((await column(mine.set, mine.set.id)).values[row]);
      if (mine.labels) mine.object = mine.labels.ids.findIndex(one => Number(one) === id);
    }
    const [ys, xs] = await centres(mine.set);
    if (middle && ys && mine === now) {
      const at = new OpenSeadragon.Point((xs[row] + 0.5) / mine.image.width, (ys[row] + 0.5) / mine.image.width);
      const area = (await column(mine.set, 'area'))?.values[row] ?? 900;
      const across = Math.max(40, Math.sqrt(area) * 7) / mine.image.width;
      osd.viewport.fitBounds(new OpenSeadragon.Rect(at.x - across / 2, at.y - across / 2, across, across));
    }
  }
  await tell(id);
}

/** Write the row of the chosen object beside the image. */
async function tell(id) {
  const mine = now;
  const host = part('object');
  if (mine.row < 0 && id === null) {
    host.replaceChildren(make('p', 'No object there. Click one to see its measurements.', {class: 'soft'}));
    draw();
    return;
  }
  const table = make('table');
  const title = id === null ? 'Object' : `Object ${id}`;
  table.append(make('caption', `${title} in ${mine.image.name}`));
  const body = make('tbody');
  const line = (name, text, derived) => {
    const row = make('tr', '', derived ? {class: 'derived'} : {});
    row.append(make('th', derived ? `${name} *` : name, {scope: 'row'}), make('td', text));
    body.append(row);
  };
  if (mine.row >= 0) {
    const columns = await Promise.all(mine.set.columns.map(one => column(mine.set, one.name)));
    if (mine !== now) return;
    columns.forEach(one => line(one.name, shown(one, one.values[mine.row]), one.derived));
  } else line('label', String(id));
  table.append(body);
  host.replaceChildren(table);
  if (mine.row < 0) host.append(make('p', 'It has no row in a table of this run.', {class: 'soft'}));
  else if (mine.set.columns.some(one => one.derived)) host.append(make('p', '* measured for this page, not in the table', {class: 'soft'}));
  say(`${title} chosen`);
  draw();
}

function about(image) {
  const size = image.width ? `${image.width.toLocaleString()} × ${image.height.toLocaleString()} px` : '';
  const um = image.um ? `${image.um.map(v => Number(v.toPrecision(4))).join(' × ')} um/px` : '';
  const counts = Object.entries(image.objects).map(([name, count]) => `${count.toLocaleString()} ${name === 'labels' ? 'objects' : name}`);
  const host = part('about');
  host.replaceChildren();
  const lines = [[...counts, size, um].filter(Boolean).join(' · '), Object.entries(image.fields).map(([k, v]) => `${k} ${v}`).join(' · '),
    image.status === 'done' ? '' : `${image.status}: ${image.reason}`, image.unread, ...image.notes, image.source].filter(Boolean);
  lines.forEach(text => host.append(make('p', text)));
}

/** Open an image, and in it the object of a row. */
export async function open(number, row = -1) {
  if (!dialog.open) {
    was = document.activeElement;
    dialog.showModal();
  }
  if (!osd) start();
  const image = data.images[number];
  if (now?.number === number && row >= 0 && now.set === state.set) {
    await chooseRow(row, true);
    return;
  }
  const mine = {number, image, labels: null, parts: null, pictures: {}, knobs: new Map(), set: null, row: -1, object: -1, lit: 0};
  now = mine;
  osd.close();
  part('layers').replaceChildren();
  part('object').replaceChildren(make('p', image.labels.length || data.sets.length ? 'Click an object to see its measurements.' : 'This run wrote no objects.', {class: 'soft'}));
  dialog.querySelector('h2').textContent = image.name;
  about(image);
  const nothing = !image.images.length && !image.labels.length && !image.layers.length;
  part('nothing').hidden = !nothing;
  part('nothing').textContent = nothing ? image.reason || image.notes[0] || 'There is no picture of this image.' : '';
  const at = shownImages.indexOf(number);
  part('back').disabled = at <= 0;
  part('on').disabled = at < 0 || at === shownImages.length - 1;
  await addLayers(mine);
  if (mine !== now) return;
  osd.viewport?.goHome(true);
  if (row >= 0) await chooseRow(row, true);
  mine.ready = true;
}

const go = step => {
  const next = shownImages[shownImages.indexOf(now.number) + step];
  if (next !== undefined) open(next);
};

async function nextObject(step) {
  const {set, number} = now;
  if (!set) return;
  const [from, to] = [set.starts[number], set.starts[number + 1]];
  if (from === to) return;
  const row = now.row < 0 ? (step > 0 ? from : to - 1) : from + ((now.row - from + step + to - from) % (to - from));
  await chooseRow(row, true);
}

export function startViewer() {
  const zoom = by => () => {
    osd.viewport.zoomBy(by);
    osd.viewport.applyConstraints();
  };
  const acts = {in: zoom(1.5), out: zoom(1 / 1.5), home: () => osd.viewport.goHome(), back: () => go(-1), on: () => go(1),
    close: () => dialog.close(), previous: () => nextObject(-1), next: () => nextObject(1)};
  Object.entries(acts).forEach(([name, act]) => part(name).addEventListener('click', act));
  dialog.addEventListener('close', () => {
    now = null;
    osd.close();
    was?.focus();
  });
  dialog.addEventListener('keydown', event => {
    if (/^(input|select)$/i.test(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {n: acts.next, p: acts.previous, '[': acts.back, ']': acts.on, c: () => now.knobs.get('contours')?.box.click()}[event.key];
    if (act) act();
  });
  state.listeners.push(lightUp);
}
