'use strict';
// The data block as call trees in typed arrays (preorder), and what follows from them: totals by function, callers and
// callees, the state of the page, figures as words. Names are data: they reach the document as text only.

const ROW = 19;            // height of a frame, CSS pixels
const THIN = 0.6;          // narrower frames are not drawn one by one but as dust
const MIRROR_SIDE = 40;    // siblings and children mirrored around the focus
const TABLE_ROWS = 500;
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const el = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

// ---- trees -----------------------------------------------------------------------------------------------------------

// A tree in preorder: the subtree of i is i .. end[i]. Totals are summed once, from the back.
function finish(tree) {
  const n = tree.depth.length;
  tree.end = new Int32Array(n);
  tree.parent = new Int32Array(n).fill(-1);
  tree.total = Float64Array.from(tree.own);
  tree.totalBefore = Float64Array.from(tree.ownBefore);
  const open = [];
  for (let i = 0; i < n; i++) {
    while (open.length && tree.depth[open[open.length - 1]] >= tree.depth[i]) tree.end[open.pop()] = i;
    if (open.length) tree.parent[i] = open[open.length - 1];
    open.push(i);
  }
  while (open.length) tree.end[open.pop()] = n;
  for (let i = n - 1; i > 0; i--) {
    tree.total[tree.parent[i]] += tree.total[i];
    tree.totalBefore[tree.parent[i]] += tree.totalBefore[i];
  }
  tree.deepest = tree.depth.reduce((most, depth) => Math.max(most, depth), 0);
  return tree;
}

function load(raw) {
  const n = raw.depth.length;
  const tree = finish({
    depth: Int32Array.from(raw.depth), name: Int32Array.from(raw.name), own: Float64Array.from(raw.own),
    ownBefore: raw.diff ? Float64Array.from(raw.own_before) : new Float64Array(n),
  });
  const owners = new Set(raw.processes.map((process) => process.name));
  return { ...raw, ...measured({ ...raw, owners }, tree), owners, only: new Map() };
}

// A tree with what follows from it alone.
function measured(p, tree) {
  const whole = { after: tree.total[0] || 1, before: tree.totalBefore[0] || 1 };
  // The largest change has the full colour; below five points colours stay pale, however small all changes are.
  let most = 5;
  for (let i = 1; p.diff && i < tree.depth.length; i++) {
    most = Math.max(most, 100 * Math.abs(tree.total[i] / whole.after - tree.totalBefore[i] / whole.before));
  }
  return { tree, whole, most, functions: functionTable(tree, p.names.length, p.owners) };
}

// The profile as if one process were all there is: its node becomes the root. Made once for each process that is asked for.
function onlyProcess(p, text) {
  if (text === null) return p;
  if (!p.only.has(text)) {
    const process = p.processes.find((known) => p.names[known.name] === text);
    let root = 1;
    while (process && root < p.tree.depth.length && p.tree.name[root] !== process.name) root = p.tree.end[root];
    const found = process && root < p.tree.depth.length;
    const cut = (column) => column.slice(root, p.tree.end[root]);
    const tree = found && finish({
      depth: cut(p.tree.depth).map((depth) => depth - 1), name: cut(p.tree.name), own: cut(p.tree.own), ownBefore: cut(p.tree.ownBefore),
    });
    p.only.set(text, found ? { ...p, ...measured(p, tree), process } : p);
  }
  return p.only.get(text);
}

// Own and total by function; a function counts once in a stack, however often it recurs there.
function functionTable(tree, names, owners) {
  const rows = Array.from({ length: names }, (_, name) => ({ name, own: 0, ownBefore: 0, total: 0, totalBefore: 0, seen: false }));
  const active = new Int32Array(names);
  const open = [];
  for (let i = 1; i < tree.depth.length; i++) {
    while (open.length && tree.end[open[open.length - 1]] <= i) active[tree.name[open.pop()]]--;
    const row = rows[tree.name[i]];
    row.seen = !owners.has(row.name);
    row.own += tree.own[i];
    row.ownBefore += tree.ownBefore[i];
    if (active[row.name] === 0) {
      row.total += tree.total[i];
      row.totalBefore += tree.totalBefore[i];
    }
    active[row.name]++;
    open.push(i);
  }
  return rows.filter((row) => row.seen);
}

// A tree grown from paths; children are merged by name.
function grower(rootName) {
  const root = { name: rootName, own: 0, ownBefore: 0, children: new Map() };
  const child = (node, name) => {
    let next = node.children.get(name);
    if (!next) node.children.set(name, next = { name, own: 0, ownBefore: 0, children: new Map() });
    return next;
  };
  return { root, child, freeze: (names) => {
    const columns = { depth: [], name: [], own: [], ownBefore: [] };
    const open = [[root, 0]];
    while (open.length) {
      const [node, depth] = open.pop();
      columns.depth.push(depth); columns.name.push(node.name);
      columns.own.push(node.own); columns.ownBefore.push(node.ownBefore);
      const children = [...node.children.values()].sort((a, b) => (names[a.name] < names[b.name] ? 1 : -1));
      for (const next of children) open.push([next, depth + 1]);
    }
    return finish({
      depth: Int32Array.from(columns.depth), name: Int32Array.from(columns.name),
      own: Float64Array.from(columns.own), ownBefore: Float64Array.from(columns.ownBefore),
    });
  } };
}

// Callers and callees of a function, from its outermost calls, so that recursion counts once.
function sandwich(profile, name) {
  const { tree, names } = profile;
  const down = grower(name);
  const up = grower(name);
  for (let i = 1; i < tree.depth.length; i++) {
    if (tree.name[i] !== name) continue;
    const stack = [down.root];
    const base = tree.depth[i];
    for (let j = i; j < tree.end[i]; j++) {
      const depth = tree.depth[j] - base;
      if (depth > 0) stack[depth] = down.child(stack[depth - 1], tree.name[j]);
      stack[depth].own += tree.own[j];
      stack[depth].ownBefore += tree.ownBefore[j];
    }
    let at = up.root;
    for (let p = tree.parent[i]; p > 0; p = tree.parent[p]) at = up.child(at, tree.name[p]);
    at.own += tree.total[i];
    at.ownBefore += tree.totalBefore[i];
    i = tree.end[i] - 1;
  }
  return { name, up: up.freeze(names), down: down.freeze(names) };
}

// ---- words about kinds -----------------------------------------------------------------------------------------------

const KINDS = {
  cpu: ['CPU', 'all CPU time'], off_cpu: ['Off CPU', 'all time without a CPU'], heap: ['Heap', 'all live heap'],
  alloc: ['Allocated', 'all that was allocated'], goroutine: ['Goroutines', 'all goroutines'],
};

// ---- state -----------------------------------------------------------------------------------------------------------

const profiles = data.profiles.map(load);
const state = {
  at: 0, view: 'graph', direction: 'icicle', width: 'both', zoom: 0, focus: 0, hover: null, search: '', matches: null, hits: null,
  sandwich: null, row: 0, sort: { key: null, down: true }, process: null,
};
const profile = () => onlyProcess(profiles[state.at], state.process);

const share = (value, of) => (100 * value / of).toFixed(value / of >= 0.0995 ? 1 : 2) + ' %';
const signed = (points) => (points > 0 ? '+' : points < 0 ? '−' : '±') + Math.abs(points).toFixed(2) + ' pp';
function amount(value) {
  const { unit } = profile();
  if (unit === 'ns') return value >= 1e9 ? (value / 1e9).toFixed(2) + ' s' : (value / 1e6).toFixed(0) + ' ms';
  if (unit !== 'By') return value.toLocaleString('en') + (unit ? ' ' + unit : '');
  const scale = value >= 2 ** 30 ? [2 ** 30, 'GiB'] : value >= 2 ** 20 ? [2 ** 20, 'MiB'] : [1024, 'KiB'];
  return (value / scale[0]).toFixed(1) + ' ' + scale[1];
}
const shares = (p, total, totalBefore) => [total / p.whole.after, totalBefore / p.whole.before];
function weight(p, total, totalBefore) {
  const [now, then] = shares(p, total, totalBefore);
  if (!p.diff || state.width === 'after') return now;
  return state.width === 'before' ? then : (now + then) / 2;
}
