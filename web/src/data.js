// What the page knows: one block of JSON in it, and files of data that are in the page too, or scripts beside it.

const block = id => document.getElementById(id);
export const data = JSON.parse(block('data').textContent);
const inside = new Map([...document.querySelectorAll('script[data-file]')].map(one => [one.dataset.file, one]));
const waiting = new Map();
const cached = new Map();

window.cellkitReport = (name, value) => {
  waiting.get(name)?.(value);
  waiting.delete(name);
};

/** The address of a picture. */
export const address = file => (inside.has(file) ? inside.get(file).textContent : `report/${file}`);

/** A file of data; a page from a disk may load scripts, nothing else. */
export function load(name) {
  if (!cached.has(name)) {
    cached.set(name, new Promise((done, failed) => {
      if (inside.has(name)) {
        done(JSON.parse(inside.get(name).textContent));
        return;
      }
      waiting.set(name, done);
      const script = document.createElement('script');
      script.src = `report/${name}.js`;
      script.onload = () => script.remove();
      script.onerror = () => failed(new Error(`report/${name}.js cannot be loaded: is the folder beside the page?`));
      document.head.append(script);
    }));
  }
  return cached.get(name);
}

/** Let go of a file of data that is no longer looked at. */
export const forget = name => cached.delete(name);

const ARRAYS = {u1: Uint8Array, i1: Int8Array, u2: Uint16Array, i2: Int16Array, u4: Uint32Array, i4: Int32Array,
  f4: Float32Array, f8: Float64Array};

/** Numbers as a typed array. */
export function numbers({type, data: text}) {
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const coded = atob(text);
    bytes = new Uint8Array(coded.length);
    for (let i = 0; i < coded.length; i++) bytes[i] = coded.charCodeAt(i);
  }
  return new ARRAYS[type](bytes.buffer);
}

const columns = new Map();
/** A column of a table: {name, words, values}. */
export function column(set, name) {
  const key = `${data.sets.indexOf(set)} ${name}`;
  if (!columns.has(key)) {
    const about = set.columns.find(one => one.name === name);
    columns.set(key, about ? load(about.file).then(made => {
      forget(about.file);
      return {...about, values: numbers(made)};
    }) : Promise.resolve(null));
  }
  return columns.get(key);
}

/** The image whose object a row is. */
export function imageOf(set, row) {
  let low = 0, high = set.starts.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (set.starts[middle] <= row) low = middle;
    else high = middle;
  }
  return low;
}

/** A value as the page shows it. */
export function shown(about, value) {
  if (about.words) return about.words[value] ?? '';
  if (Number.isNaN(value)) return '';
  if (!Number.isFinite(value) || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(7)));
}

/** What is looked at: the table, the rows that are brushed (null: none), and who wants to know when that changes. */
export const state = {
  set: data.sets[0] ?? null,
  chosen: null,
  count: 0,
  reason: '',
  listeners: [],
  choose(mask, reason = '') {
    this.chosen = mask;
    this.count = mask ? mask.reduce((sum, one) => sum + one, 0) : 0;
    this.reason = reason;
    this.listeners.forEach(told => told());
  },
};

/** Say something to those who listen to the page instead of looking at it. */
export function say(text) {
  block('said').textContent = text;
}

/** Make an element of plain text: nothing that comes from outside is ever markup. */
export function make(tag, text = '', attributes = {}) {
  const made = document.createElement(tag);
  if (text !== '') made.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}
