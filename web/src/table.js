// The table of objects, a page at a time: sorted and filtered in typed arrays, shown by Tabulator.
import {AccessorModule, AjaxModule, FormatModule, InteractionModule, PageModule, ResizeColumnsModule, SortModule, Tabulator} from 'tabulator-tables';
import {column, data, imageOf, shown, state} from './data.js';

Tabulator.registerModule([AccessorModule, AjaxModule, FormatModule, InteractionModule, PageModule, ResizeColumnsModule, SortModule]);

const PAGE = 25;
let table = null;
let loading = Promise.resolve();
let sort = null;  // [field, direction], to be set with the next change
let timer = 0;

/** Show the first page again, newly sorted where that was asked for: once for all changes of a moment. */
function renew() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    await loading;
    const wanted = sort;
    sort = null;
    if (wanted) table?.setSort(...wanted);
    else table?.setPage(1);
  }, 30);
}

/** The rows in the order of a column: brushed ones only, where some are; those without a value last. */
async function ordered(sorter) {
  const {set, chosen} = state;
  const rows = set.starts.at(-1);
  const found = new Uint32Array(chosen ? state.count : rows);
  for (let i = 0, k = 0; i < rows; i++) if (!chosen || chosen[i]) found[k++] = i;
  if (!sorter || sorter.field === 'image') return sorter?.dir === 'desc' ? found.reverse() : found;
  const about = await column(set, set.columns[Number(sorter.field.slice(1))].name);
  const sign = sorter.dir === 'desc' ? -1 : 1;
  const {values} = about;
  const last = value => (Number.isNaN(value) ? Infinity : value * sign);
  return found.sort((a, b) => last(values[a]) - last(values[b]) || a - b);
}

let latest = {key: '', rows: null};
async function page(number, sorter) {
  const {set} = state;
  const key = JSON.stringify([data.sets.indexOf(set), sorter?.field, sorter?.dir]);
  if (latest.key !== key || latest.mask !== state.chosen) latest = {key, mask: state.chosen, rows: await ordered(sorter)};
  const columns = await Promise.all(set.columns.map(one => column(set, one.name)));
  const rows = [...latest.rows.subarray((number - 1) * PAGE, number * PAGE)].map(row => {
    const image = imageOf(set, row);
    const made = {row, image: data.images[image].name};
    columns.forEach((about, i) => { made[`c${i}`] = shown(about, about.values[row]); });
    return made;
  });
  return {data: rows, last_page: Math.max(1, Math.ceil(latest.rows.length / PAGE)), last_row: latest.rows.length};
}

// Tabulator's own text formatter, but as a node: what a cell holds is never markup.
const plain = cell => document.createTextNode(cell.getValue() ?? '');

export function startTable(open) {
  const host = document.getElementById('rows');
  if (!host || !state.set) return;
  const build = () => {
    table?.destroy();
    const {set} = state;
    const head = title => () => document.createTextNode(title);
    table = new Tabulator(host, {
      layout: 'fitData', height: '26rem', placeholder: 'No objects', index: 'row',
      pagination: true, paginationMode: 'remote', paginationSize: PAGE, sortMode: 'remote', ajaxURL: 'rows',
      ajaxRequestFunc: (_, __, given) => {
        const made = page(given.page ?? 1, given.sort?.[0]);
        loading = made.then(() => new Promise(done => setTimeout(done)));
        return made;
      },
      headerSortTristate: true, columnHeaderSortMulti: false,
      columns: [
        {title: 'image', field: 'image', formatter: plain, minWidth: 140, maxInitialWidth: 220},
        ...set.columns.map((one, i) => ({title: `c${i}`, titleFormatter: head(one.name + (one.derived ? ' *' : '')),
          field: `c${i}`, formatter: plain, hozAlign: one.words ? 'left' : 'right'})),
      ],
    });
    table.on('rowClick', (_, row) => show(row.getData().row));
    table.on('renderComplete', () => host.querySelectorAll('.tabulator-row').forEach(row => {
      row.tabIndex = 0;
      row.onkeydown = event => {
        if (event.key === 'Enter') row.click();
      };
    }));
    window.cellkit.table = table;
  };
  const show = row => open(imageOf(state.set, row), row);
  let set = state.set;
  build();
  state.listeners.push(() => {
    if (state.set !== set) {
      set = state.set;
      build();
      return;
    }
    renew();
  });
}

/** Sort the table by a column. */
export function sortTable(name, direction) {
  const at = state.set.columns.findIndex(one => one.name === name);
  sort = [`c${at}`, direction];
  renew();
}

