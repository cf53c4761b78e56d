// What is said about frames, and the surroundings of the focused one as a treegrid, for keyboards and screen readers.

// ---- words about a frame ---------------------------------------------------------------------------------------------

function facts(tree, i) {
  const p = profile();
  const rows = [];
  const [now, then] = shares(p, tree.total[i], tree.totalBefore[i]);
  rows.push([p.diff ? 'total after' : 'total', `${amount(tree.total[i])}, ${share(tree.total[i], p.whole.after)}`]);
  if (p.diff) {
    rows.push(['total before', `${amount(tree.totalBefore[i])}, ${share(tree.totalBefore[i], p.whole.before)}`]);
    const word = tree.total[i] === 0 ? ' (vanished)' : tree.totalBefore[i] === 0 ? ' (new)' : '';
    rows.push(['change of share', signed(100 * (now - then)) + word]);
  }
  rows.push([p.diff ? 'own after' : 'own', `${amount(tree.own[i])}, ${share(tree.own[i], p.whole.after)}`]);
  return rows;
}
const label = (tree, i) => (i === 0 && tree === profile().tree ? rootLabel() : profile().names[tree.name[i]]);

function showTip(hit, event) {
  const tip = $('tip');
  tip.hidden = !hit;
  if (!hit) return;
  const p = profile();
  const file = p.files[hit.tree.name[hit.i]];
  const list = el('dl');
  for (const [key, value] of facts(hit.tree, hit.i)) list.append(el('dt', {}, key), el('dd', {}, value));
  tip.replaceChildren(el('b', {}, label(hit.tree, hit.i)), ...(file ? [el('div', {}, file)] : []), list);
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + 'px';
  tip.style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18) + 'px';
}
function showDetails(tree, i) {
  const words = facts(tree, i).map(([key, value]) => `${key} ${value}`).join(' · ');
  $('details').replaceChildren(el('b', {}, label(tree, i)), ' · ' + words);
}

// ---- treegrid mirror -------------------------------------------------------------------------------------------------

const childrenOf = (tree, i) => {
  const list = [];
  for (let j = i + 1; j < tree.end[i]; j = tree.end[j]) list.push(j);
  return list.sort((a, b) => weight(profile(), tree.total[b], tree.totalBefore[b]) - weight(profile(), tree.total[a], tree.totalBefore[a]));
};

// Rows: the path to the focus, the heaviest siblings around it, its heaviest children. aria-level, -posinset and
// -setsize tell the place in the whole tree, which is never in the document at once.
function mirror() {
  if (state.view === 'sandwich' && state.sandwich) {
    mirrorSandwich();
    return;
  }
  const { tree } = profile();
  const rows = [];
  const add = (i, position, size) => {
    const expanded = tree.end[i] > i + 1 ? { 'aria-expanded': String(i === state.focus || isAncestor(i, state.focus)) } : {};
    const row = el('div', {
      role: 'row', id: 'frame' + i, 'aria-level': tree.depth[i] + 1, 'aria-posinset': position, 'aria-setsize': size,
      'aria-selected': String(i === state.focus), ...expanded,
    });
    const name = el('span', { role: 'gridcell' }, label(tree, i));
    name.style.paddingLeft = Math.min(tree.depth[i], 40) * 12 + 'px';
    row.append(name, ...facts(tree, i).map(([key, value]) => el('span', { role: 'gridcell', 'aria-label': `${key} ${value}`, title: key }, value)));
    row.className = i === state.focus ? 'at' : '';
    row.addEventListener('click', () => focus(i));
    rows.push(row);
  };
  const path = [];
  for (let i = tree.parent[state.focus]; i >= 0; i = tree.parent[i]) path.unshift(i);
  for (const i of path) {
    const siblings = tree.parent[i] < 0 ? [i] : childrenOf(tree, tree.parent[i]);
    add(i, siblings.indexOf(i) + 1, siblings.length);
  }
  const siblings = tree.parent[state.focus] < 0 ? [0] : childrenOf(tree, tree.parent[state.focus]);
  const at = siblings.indexOf(state.focus);
  const from = Math.max(0, Math.min(at - MIRROR_SIDE / 2, siblings.length - MIRROR_SIDE));
  for (let s = from; s < Math.min(siblings.length, from + MIRROR_SIDE); s++) {
    add(siblings[s], s + 1, siblings.length);
    if (s === at) {
      const children = childrenOf(tree, state.focus);
      children.slice(0, MIRROR_SIDE).forEach((child, position) => add(child, position + 1, children.length));
    }
  }
  const head = el('div', { role: 'row', class: 'head' }, el('span', { role: 'columnheader' }, 'Frame'));
  head.append(...facts(tree, 0).map(([key]) => el('span', { role: 'columnheader' }, key)));
  $('mirror').replaceChildren(head, ...rows);
  $('mirror').setAttribute('aria-activedescendant', 'frame' + state.focus);
  if (state.view === 'tree') document.getElementById('frame' + state.focus).scrollIntoView({ block: 'nearest' });
}
// The sandwich's rows: the function, its direct callers, its direct callees; Enter goes on to the one in focus.
function mirrorSandwich() {
  const { up, down } = state.sandwich;
  const callers = childrenOf(up, 0).slice(0, MIRROR_SIDE).map((i) => [up, i, 'called by ']);
  const callees = childrenOf(down, 0).slice(0, MIRROR_SIDE).map((i) => [down, i, 'calls ']);
  const list = [[down, 0, ''], ...callers, ...callees];
  state.row = Math.max(0, Math.min(state.row, list.length - 1));
  const rows = list.map(([tree, i, word], at) => {
    const name = el('span', { role: 'gridcell' }, word + label(tree, i));
    const row = el('div', { role: 'row', id: 'row' + at, 'aria-level': at ? 2 : 1, 'aria-selected': String(at === state.row) }, name);
    row.append(...facts(tree, i).map(([key, value]) => el('span', { role: 'gridcell', 'aria-label': `${key} ${value}` }, value)));
    row.dataset.name = tree.name[i];
    return row;
  });
  $('mirror').replaceChildren(...rows);
  $('mirror').setAttribute('aria-activedescendant', 'row' + state.row);
  showDetails(list[state.row][0], list[state.row][1]);
}
function moveInSandwich(step) {
  state.row += step;
  mirrorSandwich();
}

function isAncestor(i, of) {
  const { tree } = profile();
  return i <= of && of < tree.end[i];
}

function focus(i) {
  state.focus = i;
  const { tree } = profile();
  if (!isAncestor(state.zoom, i)) state.zoom = i;
  mirror();
  showDetails(tree, i);
  reveal(i);
  redraw();
}
function reveal(i) {
  const row = profile().tree.depth[i] * ROW;
  const top = state.direction === 'flame' ? $('spacer').offsetHeight - row - ROW : row;
  if (top < scroll.scrollTop || top + ROW > scroll.scrollTop + scroll.clientHeight) {
    scroll.scrollTop = top - scroll.clientHeight / 2;
  }
}
function zoom(i) {
  state.zoom = i;
  if (!isAncestor(i, state.focus)) state.focus = i;
  $('reset').disabled = i === 0;
  mirror();
  showDetails(profile().tree, i);
  redraw();
}

// In the tree view keys move by row: up and down as listed, left to the caller, right to the heaviest callee.
function moveRow(key) {
  const { tree } = profile();
  const i = state.focus;
  if (key === 'ArrowLeft') return tree.parent[i] >= 0 && focus(tree.parent[i]);
  if (key === 'ArrowRight') return tree.end[i] > i + 1 && focus(childrenOf(tree, i)[0]);
  const rows = [...$('mirror').querySelectorAll('[role=row][id]')].map((row) => Number(row.id.slice(5)));
  const next = rows[rows.indexOf(i) + (key === 'ArrowDown' ? 1 : -1)];
  return next !== undefined && focus(next);
}

function move(key) {
  if (state.view === 'tree') return moveRow(key);
  const { tree } = profile();
  const up = state.direction === 'flame' ? 'ArrowDown' : 'ArrowUp';
  const down = state.direction === 'flame' ? 'ArrowUp' : 'ArrowDown';
  const i = state.focus;
  const parent = tree.parent[i];
  if (key === up) return parent >= 0 && focus(parent);
  if (key === down) return tree.end[i] > i + 1 && focus(childrenOf(tree, i)[0]);
  if (parent < 0) return undefined;
  // Left and right as they are drawn: by name, which is preorder.
  if (key === 'ArrowRight') return tree.end[i] < tree.end[parent] && focus(tree.end[i]);
  let before = -1;
  for (let j = parent + 1; j < i; j = tree.end[j]) before = j;
  return before >= 0 && focus(before);
}

$('mirror').addEventListener('keydown', (event) => {
  showTip(null);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inSandwich = {
    ArrowUp: () => moveInSandwich(-1), ArrowDown: () => moveInSandwich(1), Escape: () => setView('graph'),
    Enter: () => openSandwich(Number($('row' + state.row).dataset.name)),
  };
  const keys = state.view === 'sandwich' ? inSandwich : {
    ArrowUp: () => move('ArrowUp'), ArrowDown: () => move('ArrowDown'),
    ArrowLeft: () => move('ArrowLeft'), ArrowRight: () => move('ArrowRight'),
    Enter: () => zoom(state.focus), Escape: () => zoom(0), Home: () => focus(0),
    Backspace: () => state.zoom > 0 && zoom(profile().tree.parent[state.zoom]),
    s: () => state.focus > 0 && openSandwich(profile().tree.name[state.focus]),
    n: () => nextMatch(1), N: () => nextMatch(-1),
  };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});
$('mirror').addEventListener('focus', redraw);
$('mirror').addEventListener('blur', redraw);
addEventListener('keydown', (event) => {
  if (event.key === '/' && event.target !== $('search')) {
    event.preventDefault();
    $('search').focus();
  }
});
