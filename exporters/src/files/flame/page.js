// Pointer, search, tables and controls; starts the page.

// ---- pointer ---------------------------------------------------------------------------------------------------------

const hitAt = (event) => {
  const box = canvas.getBoundingClientRect();
  const x = event.clientX - box.left;
  const y = event.clientY - box.top;
  return drawn.find((d) => y >= d.y && y < d.y + ROW && x >= d.x && x < d.x + d.w) || null;
};
canvas.addEventListener('mousemove', (event) => showTip(hitAt(event), event));
canvas.addEventListener('mouseleave', () => showTip(null));
canvas.addEventListener('click', (event) => {
  const hit = hitAt(event);
  showTip(null);
  if (!hit) return;
  if (hit.tree === profile().tree) {
    state.focus = hit.i;
    zoom(hit.i);
    $('mirror').focus({ preventScroll: true });
  } else {
    openSandwich(hit.tree.name[hit.i]);
  }
});
canvas.addEventListener('contextmenu', (event) => {
  const hit = hitAt(event);
  if (hit && hit.i > 0) {
    event.preventDefault();
    openSandwich(hit.tree.name[hit.i]);
  }
});
scroll.addEventListener('scroll', redraw);
new ResizeObserver(redraw).observe(scroll);
dark.addEventListener('change', () => { readColours(); makeHatch(); summary(); refresh(); });

// ---- search ----------------------------------------------------------------------------------------------------------

function search(text) {
  state.search = text;
  const p = profile();
  state.matches = null;
  state.hits = null;
  $('found').textContent = '';
  if (text) {
    const pattern = text.match(/^\/(.+)\/$/);
    let test = (name) => name.toLowerCase().includes(text.toLowerCase());
    if (pattern) {
      try {
        const regex = new RegExp(pattern[1], 'i');
        test = (name) => regex.test(name);
      } catch {
        $('found').textContent = 'not a regular expression';
        return;
      }
    }
    state.matches = new Set();
    const present = p.functions.map((row) => row.name).concat(p.process ? [] : [...p.owners]);
    for (const at of present) if (test(p.names[at])) state.matches.add(at);
    const { tree } = p;
    // How many matches stand before each node, so that a frame too thin to be drawn can say that it holds some.
    state.hits = { tree, before: new Int32Array(tree.depth.length + 1) };
    for (let i = 0; i < tree.depth.length; i++) state.hits.before[i + 1] = state.hits.before[i] + (state.matches.has(tree.name[i]) ? 1 : 0);
    // Outermost matches only: nothing is counted twice.
    let now = 0;
    let then = 0;
    for (let i = 1; i < tree.depth.length;) {
      if (state.matches.has(tree.name[i])) {
        now += tree.total[i];
        then += tree.totalBefore[i];
        i = tree.end[i];
      } else {
        i++;
      }
    }
    $('found').textContent = `${state.matches.size.toLocaleString('en')} ${state.matches.size === 1 ? 'name' : 'names'}, ${share(now, p.whole.after)}`
      + (p.diff ? ` (before ${share(then, p.whole.before)})` : '');
  }
}
function nextMatch(step) {
  const { tree } = profile();
  const n = tree.depth.length;
  if (!state.matches || !state.matches.size) return;
  for (let k = 1; k < n; k++) {
    const i = (state.focus + step * k + n * 2) % n;
    if (i > 0 && state.matches.has(tree.name[i])) return focus(i);
  }
}
$('search').addEventListener('input', () => { search($('search').value.trim()); refresh(); });
$('search').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && state.view === 'graph') { nextMatch(1); $('mirror').focus(); }
  if (event.key === 'Escape') { $('search').value = ''; search(''); refresh(); }
});

// ---- tables ----------------------------------------------------------------------------------------------------------

// Where there is little room the path of a name goes first; type arguments and receivers hold paths of their own.
function pathAndName(name) {
  const end = name.search(/[[(<]/);
  const slash = name.lastIndexOf('/', end > 0 ? end : name.length);
  return slash > 0 ? [el('span', { class: 'path' }, name.slice(0, slash + 1)), name.slice(slash + 1)] : [name];
}

function renderTable(pick) {
  const p = profile();
  const change = (row) => 100 * (row.total / p.whole.after - row.totalBefore / p.whole.before);
  const columns = [
    ['Function', (row) => p.names[row.name], ''],
    ['Own', (row) => row.own, ''],
    ...(p.diff ? [['Own before', (row) => row.ownBefore, '']] : []),
    ['Total', (row) => row.total, ''],
    ...(p.diff ? [['Total before', (row) => row.totalBefore, ''], ['Change of share', change, 'wide']] : []),
  ];
  const key = state.sort.key || (p.diff && !pick ? 'Change of share' : 'Own');
  const [, value] = columns.find(([name]) => name === key) || columns[1];
  const size = (row) => (key === 'Change of share' ? Math.abs(value(row)) : value(row));
  const order = (a, b) => (typeof value(a) === 'string' ? (value(a) < value(b) ? -1 : 1) : size(b) - size(a));
  const rows = p.functions.filter((row) => !state.matches || state.matches.has(row.name)).sort(order);
  if (!state.sort.down) rows.reverse();
  const head = el('tr', {}, ...columns.map(([name, , wide]) => {
    const button = el('button', {}, name + (name === key ? (state.sort.down ? ' ▾' : ' ▴') : ''));
    button.addEventListener('click', () => {
      state.sort = { key: name, down: name === key ? !state.sort.down : true };
      refresh();
    });
    return el('th', { scope: 'col', class: wide, 'aria-sort': name === key ? (state.sort.down ? 'descending' : 'ascending') : 'none' }, button);
  }));
  const most = Math.max(1, ...rows.slice(0, TABLE_ROWS).map((row) => Math.abs(change(row))));
  const body = rows.slice(0, TABLE_ROWS).map((row) => {
    const name = el('button', { title: p.names[row.name] + (p.files[row.name] ? '\n' + p.files[row.name] : '') }, ...pathAndName(p.names[row.name]));
    name.addEventListener('click', () => openSandwich(row.name));
    const cells = [
      el('td', {}, name), el('td', {}, share(row.own, p.whole.after)),
      ...(p.diff ? [el('td', {}, share(row.ownBefore, p.whole.before))] : []),
      el('td', {}, share(row.total, p.whole.after)),
    ];
    if (p.diff) {
      const bar = el('span', { class: 'bar' });
      bar.style.width = (60 * Math.abs(change(row)) / most).toFixed(1) + 'px';
      bar.style.background = changeColour(change(row) > 0 ? 100 : -100);
      cells.push(el('td', {}, share(row.totalBefore, p.whole.before)));
      cells.push(el('td', {}, signed(change(row)), el('span', { class: 'slot' }, bar)));
    }
    return el('tr', {}, ...cells);
  });
  const note = rows.length > TABLE_ROWS ? `The first ${TABLE_ROWS} of ${rows.length} functions; search for others.` : '';
  const hint = pick ? 'Choose a function to see its callers and callees.' : note;
  $('table').replaceChildren(el('table', {}, el('thead', {}, head), el('tbody', {}, ...body)), el('p', {}, hint));
}

function openSandwich(name) {
  state.sandwich = sandwich(profile(), name);
  state.row = 0;
  setView('sandwich');
  showDetails(state.sandwich.down, 0);
  requestAnimationFrame(() => {
    // The function itself in sight, with some callers above; by then another profile may have been chosen.
    if (state.sandwich) scroll.scrollTop = state.sandwich.up.deepest * ROW - scroll.clientHeight / 3;
    redraw();
  });
}

// ---- controls --------------------------------------------------------------------------------------------------------

function press(group, key, value) {
  for (const button of $(group).querySelectorAll('button')) {
    button.setAttribute('aria-pressed', String(button.dataset[key] === value));
  }
}
function setView(view) {
  state.view = view;
  refresh();
}
function setProfile(at) {
  Object.assign(state, { at, zoom: 0, focus: 0, sandwich: null, sort: { key: null, down: true } });
  $('reset').disabled = true;
  listProcesses();
  search(state.search);
  summary();
  showDetails(profile().tree, 0);
  refresh();
  if (state.direction === 'flame') scroll.scrollTop = scroll.scrollHeight;
}
// The processes of this profile, heaviest first; nothing to choose where it knows no more than one.
function listProcesses() {
  const p = profiles[state.at];
  $('process').parentElement.hidden = p.processes.length < 2;
  const size = new Map();
  for (let i = 1; i < p.tree.depth.length; i = p.tree.end[i]) size.set(p.tree.name[i], weight(p, p.tree.total[i], p.tree.totalBefore[i]));
  const options = p.processes.filter(({ name }) => size.has(name)).sort((a, b) => size.get(b.name) - size.get(a.name)).map((process) => {
    const times = process.pids > 1 ? ` ×${process.pids}` : '';
    const places = process.places.length ? ' · ' + process.places.join(', ') : '';
    return el('option', { value: p.names[process.name] }, `${p.names[process.name]}${times}, ${share(size.get(process.name), 1)}${places}`);
  });
  $('process').replaceChildren(el('option', { value: '' }, `all ${options.length}`), ...options);
  // The same choice for every kind, as long as that process is in it.
  if (!options.some((option) => option.value === state.process)) state.process = null;
  $('process').value = state.process === null ? '' : state.process;
}
// How sure a share is: 95 % of a binomial proportion. Shown for one of 10 %, where it matters.
function margin(samples) {
  const points = 196 * Math.sqrt(0.09 / samples);
  return samples > 0 ? `, a share of 10 % is sure to ±${points.toFixed(points < 0.1 ? 2 : 1)} pp` : '';
}
function missing(f) {
  const parts = [];
  if (f.lost) parts.push(`${f.lost.toLocaleString('en')} samples lost (${share(f.lost, f.lost + f.samples)})`);
  if (f.truncated) parts.push(`${f.truncated.toLocaleString('en')} stacks truncated (${share(f.truncated, Math.max(1, f.samples))})`);
  return parts.join(', ');
}
function summary() {
  const p = profile();
  const timed = (p.kind === 'cpu' || p.kind === 'off_cpu') && p.unit === 'ns';
  const side = (f, total) => {
    if (!timed) return amount(total);
    const seconds = f.duration_ms / 1000;
    const what = p.kind === 'cpu' ? 'CPUs' : 'threads waiting';
    const rate = seconds ? `${(total / 1e9 / seconds).toFixed(2)} ${what} over ${seconds.toFixed(1)} s` : amount(total);
    const sure = p.kind === 'cpu' && !p.process ? margin(f.samples) : '';
    return `${rate} (${p.process ? 'of ' : ''}${f.samples.toLocaleString('en')} samples${sure})`;
  };
  const parts = [el('b', {}, side(p.after, p.tree.total[0]))];
  if (p.diff) {
    const age = (p.after.at_ms - p.before.at_ms) / 1000;
    const known = p.after.at_ms > 0 && p.before.at_ms > 0;
    const size = Math.abs(age) >= 7200 ? `${Math.round(Math.abs(age) / 3600)} h` : Math.abs(age) >= 120 ? `${Math.round(Math.abs(age) / 60)} min` : `${Math.round(Math.abs(age))} s`;
    const when = !known ? 'before' : age < 0 ? `${size} later` : `${size} earlier`;
    parts.push(` now; ${when} ${side(p.before, p.tree.totalBefore[0])}. Width and colour compare shares, not totals.`);
  } else if (p.after.at_ms > 0) {
    parts.push(' · ' + new Date(p.after.at_ms).toISOString().replace('T', ' ').slice(0, 19) + ' UTC');
  }
  const lost = [p.diff ? ['now', missing(p.after)] : ['', missing(p.after)], ...(p.diff ? [['before', missing(p.before)]] : [])];
  for (const [when, text] of lost) if (text) parts.push(el('span', { class: 'lost' }, `${when ? when + ': ' : ''}${text}`));
  $('summary').replaceChildren(...parts);
  const swatch = (style, text) => {
    const box = el('i');
    box.style.background = style;
    return el('span', {}, box, text);
  };
  $('legend').replaceChildren(...(p.diff ? [
    swatch(changeColour(100), 'grew'), swatch(colours.neutral, 'same'), swatch(changeColour(-100), 'shrank'),
    swatch(`repeating-linear-gradient(-45deg, ${changeColour(-100)} 0 3px, ${colours.page} 3px 5px)`, 'vanished'),
  ] : []));
  $('widths').hidden = !p.diff;
}
function refresh() {
  press('views', 'view', state.view);
  press('directions', 'direction', state.direction);
  press('widths', 'width', state.width);
  press('kinds', 'kind', String(state.at));
  const pick = state.view === 'sandwich' && !state.sandwich;
  const asTable = state.view === 'table' || pick;
  $('table').hidden = !asTable;
  $('graph').hidden = asTable;
  $('graph').classList.toggle('as-tree', state.view === 'tree');
  $('directions').hidden = state.view !== 'graph';
  if (asTable) renderTable(pick);
  else mirror();
  redraw();
}

for (const button of $('views').querySelectorAll('button')) {
  button.addEventListener('click', () => setView(button.dataset.view));
}
for (const button of $('directions').querySelectorAll('button')) {
  button.addEventListener('click', () => {
    state.direction = button.dataset.direction;
    refresh();
    requestAnimationFrame(() => { scroll.scrollTop = state.direction === 'flame' ? scroll.scrollHeight : 0; });
  });
}
for (const button of $('widths').querySelectorAll('button')) {
  button.addEventListener('click', () => { state.width = button.dataset.width; refresh(); });
}
profiles.forEach((p, at) => {
  const button = el('button', { 'data-kind': at }, KINDS[p.kind][0]);
  button.addEventListener('click', () => setProfile(at));
  $('kinds').append(button);
});
$('reset').addEventListener('click', () => zoom(0));
$('process').addEventListener('change', () => {
  state.process = $('process').value || null;
  setProfile(state.at);
});

// The address may say what to show first: #view=table&kind=1&process=name&search=text&sandwich=function&direction=flame
function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, { at: 0, view: 'graph', direction: 'icicle', width: 'both', zoom: 0, focus: 0, sandwich: null, process: null });
  $('reset').disabled = true;
  if (wanted.has('kind') && profiles[Number(wanted.get('kind'))]) state.at = Number(wanted.get('kind'));
  state.process = wanted.get('process');
  listProcesses();
  if (['graph', 'table', 'sandwich', 'tree'].includes(wanted.get('view'))) state.view = wanted.get('view');
  if (wanted.get('direction') === 'flame') state.direction = 'flame';
  if (['after', 'before'].includes(wanted.get('width'))) state.width = wanted.get('width');
  showDetails(profile().tree, 0);
  $('search').value = wanted.get('search') || '';
  search($('search').value);
  const name = profile().names.indexOf(wanted.get('sandwich'));
  if (name > 0) openSandwich(name);
}

readColours();
makeHatch();
if (profiles.length) {
  const start = () => { fromAddress(); summary(); refresh(); };
  start();
  addEventListener('hashchange', start);
  requestAnimationFrame(() => { if (state.direction === 'flame') scroll.scrollTop = scroll.scrollHeight; });
} else {
  $('summary').textContent = 'No profile was captured.';
}
