import 'uplot/dist/uPlot.min.css';
import 'tabulator-tables/dist/css/tabulator_simple.min.css';
import './style.css';
import {data, state} from './data.js';
import {startGrid} from './grid.js';
import {startOutliers} from './outliers.js';
import {startPlots} from './plots.js';
import {startTable} from './table.js';
import {open, startViewer} from './viewer.js';

window.cellkit = {data, state, open, ready: false};

function startTheme() {
  const button = document.getElementById('theme');
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const root = document.documentElement;
  let kept = null;
  try {
    kept = localStorage.getItem('cellkit-theme');
  } catch { /* a page that may not keep anything */ }
  if (kept === 'dark' || kept === 'light') root.dataset.theme = kept;
  const name = () => root.dataset.theme ?? (dark.matches ? 'dark' : 'light');
  const label = () => { button.textContent = name() === 'dark' ? 'Light' : 'Dark'; };
  button.addEventListener('click', () => {
    root.dataset.theme = name() === 'dark' ? 'light' : 'dark';
    try {
      localStorage.setItem('cellkit-theme', root.dataset.theme);
    } catch { /* the same */ }
    label();
    dispatchEvent(new Event('themechange'));
  });
  dark.addEventListener('change', label);
  label();
}

startTheme();
// The page is painted first: what follows needs the libraries.
requestAnimationFrame(() => setTimeout(async () => {
  startViewer();
  startGrid(open);
  await startPlots();
  startTable(open);
  startOutliers(open);
  window.cellkit.ready = true;
  document.documentElement.dataset.ready = 'yes';
}));
