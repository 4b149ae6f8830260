// Histograms and a scatter plot of the measurements; what is dragged over in one is brushed everywhere.
import uPlot from 'uplot';
import {column, data, make, say, state} from './data.js';

const BINS = 60;
const host = document.getElementById('charts');
const plots = [];
let ink;

function colors() {
  const style = getComputedStyle(document.documentElement);
  const of = name => style.getPropertyValue(name).trim();
  ink = {text: of('--soft'), line: of('--line'), all: of('--plot'), mark: of('--mark')};
}

const span = values => {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high && value !== Infinity) high = value;
  }
  if (!(low <= high)) return [0, 1];
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
};

/** A plot: one column for a histogram, two for a scatter plot. `limits` are what is brushed, by column. */
class Plot {
  constructor(names, number) {
    this.names = names;
    this.limits = [null, null];
    this.number = number;
    this.root = make('figure', '', {class: 'chart'});
    this.controls = make('div', '', {class: 'axes'});
    this.room = make('div', '', {class: 'room-of-plot', role: 'img'});
    this.root.append(this.controls, this.room);
    host.append(this.root);
  }

  async fill() {
    this.columns = await Promise.all(this.names.map(name => column(state.set, name)));
    this.spans = this.columns.map(one => span(one.values));
    this.bins = this.names.length === 1 ? this.count(null) : null;
    this.form();
    this.draw();
  }

  /** Selects for the columns, and fields for limits: all that dragging does, by keys too. */
  form() {
    this.controls.replaceChildren();
    this.fields = [];
    this.names.forEach((name, axis) => {
      const group = make('fieldset');
      const title = this.names.length === 1 ? 'Histogram of' : axis ? 'against (down)' : 'Scatter of (across)';
      group.append(make('legend', title));
      const select = make('select', '', {'aria-label': `${title} measurement`});
      for (const one of state.set.columns.filter(c => !c.words)) {
        const option = make('option', one.name);
        option.value = one.name;
        option.selected = one.name === name;
        select.append(option);
      }
      select.addEventListener('change', () => {
        this.names[axis] = select.value;
        this.limits = [null, null];
        this.fill().then(brush);
      });
      group.append(select);
      const fields = ['from', 'to'].map(text => {
        const field = make('input', '', {type: 'number', step: 'any', 'aria-label': `${this.names[axis]} ${text}`,
          placeholder: text});
        field.addEventListener('change', () => {
          const [low, high] = fields.map(f => (f.value === '' ? NaN : Number(f.value)));
          const none = Number.isNaN(low) && Number.isNaN(high);
          this.limits[axis] = none ? null : [Number.isNaN(low) ? -Infinity : low, Number.isNaN(high) ? Infinity : high];
          brush();
        });
        return field;
      });
      this.fields.push(fields);
      group.append(...fields);
      this.controls.append(group);
    });
    this.write();
  }

  write() {
    this.fields?.forEach((fields, axis) => fields.forEach((field, end) => {
      const value = this.limits[axis]?.[end];
      field.value = Number.isFinite(value) ? Number(value.toPrecision(6)) : '';
    }));
  }

  count(chosen) {
    const [low, high] = this.spans[0];
    const found = new Array(BINS).fill(0);
    const {values} = this.columns[0];
    for (let i = 0; i < values.length; i++) {
      if ((chosen && !chosen[i]) || !(values[i] <= high)) continue;
      found[Math.min(BINS - 1, Math.floor((values[i] - low) / (high - low) * BINS))]++;
    }
    return found;
  }

  draw() {
    this.plot?.destroy();
    const single = this.names.length === 1;
    const [across] = this.spans;
    const down = single ? [0, Math.max(1, ...this.bins) * 1.05] : this.spans[1];
    const room = (a, b) => [a - (b - a) * 0.02, b + (b - a) * 0.02];
    const axis = (label, wide) => ({label, stroke: ink.text, grid: {stroke: ink.line, width: 1}, ticks: {stroke: ink.line},
      labelSize: 18, size: wide, font: '12px system-ui', labelFont: '12px system-ui'});
    const options = {
      width: Math.max(220, this.room.clientWidth), height: 250,
      legend: {show: false}, cursor: {drag: {x: true, y: !single, setScale: false, uni: 10}, points: {show: false}},
      scales: {x: {time: false, range: () => room(...across)}, y: {range: () => (single ? down : room(...down))}},
      axes: [axis(this.names[0], 32), axis(single ? 'objects' : this.names[1], 58)],
      series: [{}, {paths: () => null, points: {show: false}}],
      hooks: {
        draw: [u => (single ? this.bars(u) : this.points(u))],
        setSelect: [u => this.selected(u)],
      },
    };
    this.plot = new uPlot(options, [across, down], this.room);
    this.describe();
  }

  describe() {
    const parts = this.names.map((name, i) => `${name} from ${this.spans[i].map(v => Number(v.toPrecision(4))).join(' to ')}`);
    const kind = this.names.length === 1 ? 'Histogram' : 'Scatter plot';
    this.room.setAttribute('aria-label', `${kind}: ${parts.join(', ')}. The fields above brush it by keys.`);
  }

  bars(u) {
    const pen = u.ctx;
    const base = u.valToPos(0, 'y', true);
    const [low, high] = this.spans[0];
    const edge = i => u.valToPos(low + (high - low) * i / BINS, 'x', true);
    const paint = (counts, color) => {
      pen.fillStyle = color;
      counts.forEach((count, i) => {
        if (!count) return;
        const top = Math.min(base - 1, u.valToPos(count, 'y', true));
        pen.fillRect(edge(i), top, Math.max(1, edge(i + 1) - edge(i) - 1), base - top);
      });
    };
    paint(this.bins, ink.all);
    if (state.chosen) paint(this.count(state.chosen), ink.mark);
  }

  points(u) {
    const pen = u.ctx;
    const [xs, ys] = this.columns.map(one => one.values);
    const [x0, x1] = this.spans[0].map(v => u.valToPos(v, 'x', true));
    const [y0, y1] = this.spans[1].map(v => u.valToPos(v, 'y', true));
    const [kx, ky] = [(x1 - x0) / (this.spans[0][1] - this.spans[0][0]), (y1 - y0) / (this.spans[1][1] - this.spans[1][0])];
    const size = (xs.length > 20000 ? 1.5 : 2.5) * uPlot.pxRatio;
    const paint = (keep, color, side, alpha) => {
      pen.globalAlpha = alpha;
      pen.fillStyle = color;
      for (let i = 0; i < xs.length; i++) {
        if (keep(i)) pen.fillRect(x0 + (xs[i] - this.spans[0][0]) * kx - side / 2, y0 + (ys[i] - this.spans[1][0]) * ky - side / 2, side, side);
      }
      pen.globalAlpha = 1;
    };
    const {chosen} = state;
    paint(i => !chosen || !chosen[i], ink.all, size, xs.length > 20000 ? 0.45 : 0.7);
    if (chosen) paint(i => chosen[i], ink.mark, size * 1.6, 1);
  }

  selected(u) {
    const {left, top, width, height} = u.select;
    if (width < 3 && height < 3) {
      if (this.limits.some(Boolean)) {
        this.limits = [null, null];
        brush();
      }
      return;
    }
    this.limits[0] = width > 0 ? [u.posToVal(left, 'x'), u.posToVal(left + width, 'x')] : null;
    if (this.names.length > 1) this.limits[1] = height > 0 ? [u.posToVal(top + height, 'y'), u.posToVal(top, 'y')] : null;
    brush();
  }
}

/** Choose the rows that lie within the limits of every plot. */
export function brush() {
  const tests = plots.flatMap(plot => plot.limits.flatMap((limits, axis) =>
    (limits && plot.columns[axis] ? [{values: plot.columns[axis].values, limits, name: plot.names[axis]}] : [])));
  plots.forEach(plot => plot.write());
  if (!tests.length) {
    state.choose(null);
    say('nothing brushed');
    return;
  }
  const rows = state.set.starts.at(-1);
  const mask = new Uint8Array(rows).fill(1);
  for (const {values, limits: [low, high]} of tests) {
    for (let i = 0; i < rows; i++) if (!(values[i] >= low && values[i] <= high)) mask[i] = 0;
  }
  state.choose(mask, [...new Set(tests.map(one => one.name))].join(', '));
  say(`${state.count.toLocaleString()} of ${rows.toLocaleString()} objects brushed`);
}

/** Take every limit away, without telling anybody. */
export function clearLimits() {
  plots.forEach(plot => {
    plot.limits = [null, null];
    plot.write();
    plot.plot?.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
  });
}

const first = (set, wanted, not) => wanted.map(w => set.columns.find(c => !c.words && c.name !== not && (c.name === w || c.name.startsWith(w)))).find(Boolean)?.name
  ?? set.columns.find(c => !c.words && c.name !== 'label' && c.name !== not)?.name ?? set.columns.find(c => !c.words)?.name;

async function fillAll() {
  const {set} = state;
  host.replaceChildren();
  plots.length = 0;
  const one = first(set, ['area', 'score', 'x0']);
  const two = first(set, ['roundness', 'solidity', 'eccentricity', 'class'], one);
  const three = first(set, ['mean', 'sharpness', 'y0'], one);
  if (!one) return;
  [[one], [two ?? one], [one, three ?? one]].forEach((names, i) => plots.push(new Plot(names, i)));
  await Promise.all(plots.map(plot => plot.fill()));
}

export async function startPlots() {
  if (!host || !state.set) return;
  colors();
  await fillAll();
  state.listeners.push(() => plots.forEach(plot => plot.plot?.redraw(false)));
  document.getElementById('clear').addEventListener('click', () => {
    clearLimits();
    state.choose(null);
    say('nothing brushed');
  });
  const choice = document.getElementById('set');
  choice?.addEventListener('change', () => {
    state.set = data.sets[Number(choice.value)];
    state.choose(null);
    fillAll();
  });
  const again = () => {
    colors();
    plots.forEach(plot => plot.columns && plot.draw());
  };
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth !== width) again();
    width = innerWidth;
  });
  addEventListener('themechange', again);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
  window.cellkit.plots = plots;
}
