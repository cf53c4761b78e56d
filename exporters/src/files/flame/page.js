'use strict';
// Reads the data block, builds call trees in typed arrays (preorder), draws what is at least a pixel fraction wide on one
// canvas of the window's size, and mirrors the surroundings of the focused frame as a treegrid for keyboards and screen
// readers. Names are data: they reach the document as text only.
(() => {
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

  // ---- trees -------------------------------------------------------------------------------------------------------

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
    const whole = { after: tree.total[0] || 1, before: tree.totalBefore[0] || 1 };
    // The largest change has the full colour; below five points colours stay pale, however small all changes are.
    let most = 5;
    for (let i = 1; raw.diff && i < n; i++) {
      most = Math.max(most, 100 * Math.abs(tree.total[i] / whole.after - tree.totalBefore[i] / whole.before));
    }
    return { ...raw, tree, whole, most, functions: functionTable(tree, raw.names.length) };
  }

  // Own and total by function; a function counts once in a stack, however often it recurs there.
  function functionTable(tree, names) {
    const rows = Array.from({ length: names }, (_, name) => ({ name, own: 0, ownBefore: 0, total: 0, totalBefore: 0, seen: false }));
    const active = new Int32Array(names);
    const open = [];
    for (let i = 1; i < tree.depth.length; i++) {
      while (open.length && tree.end[open[open.length - 1]] <= i) active[tree.name[open.pop()]]--;
      const row = rows[tree.name[i]];
      row.seen = true;
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

  // ---- state -------------------------------------------------------------------------------------------------------

  const profiles = data.profiles.map(load);
  const state = {
    at: 0, view: 'graph', direction: 'icicle', width: 'both', zoom: 0, focus: 0, hover: null, search: '', matches: null,
    sandwich: null, row: 0, sort: { key: null, down: true },
  };
  const profile = () => profiles[state.at];

  const share = (value, of) => (100 * value / of).toFixed(value / of >= 0.0995 ? 1 : 2) + ' %';
  const signed = (points) => (points > 0 ? '+' : points < 0 ? '−' : '±') + Math.abs(points).toFixed(2) + ' pp';
  function amount(value) {
    const { unit } = profile();
    if (unit === 'ns') return value >= 1e9 ? (value / 1e9).toFixed(2) + ' s' : (value / 1e6).toFixed(0) + ' ms';
    if (unit !== 'By') return value.toLocaleString('en');
    const scale = value >= 2 ** 30 ? [2 ** 30, 'GiB'] : value >= 2 ** 20 ? [2 ** 20, 'MiB'] : [1024, 'KiB'];
    return (value / scale[0]).toFixed(1) + ' ' + scale[1];
  }
  const shares = (p, total, totalBefore) => [total / p.whole.after, totalBefore / p.whole.before];
  function weight(p, total, totalBefore) {
    const [now, then] = shares(p, total, totalBefore);
    if (!p.diff || state.width === 'after') return now;
    return state.width === 'before' ? then : (now + then) / 2;
  }

  // ---- colour ------------------------------------------------------------------------------------------------------

  const dark = matchMedia('(prefers-color-scheme: dark)');
  let colours = {};
  function readColours() {
    const css = getComputedStyle(document.documentElement);
    const read = (name) => css.getPropertyValue(name).trim();
    const rgb = (name) => read(name).split(' ').map(Number);
    colours = {
      page: read('--page'), ink: read('--ink'), soft: read('--soft'), neutral: read('--neutral'), dust: read('--dust'),
      hit: read('--hit'), accent: read('--accent'), grew: rgb('--grew'), shrank: rgb('--shrank'), byName: new Map(),
      base: dark.matches ? [58, 60, 66] : [222, 222, 217],
    };
  }

  // The part of a Go name that says whose code it is: everything before the last path element's first dot.
  function packageOf(name) {
    const slash = name.lastIndexOf('/');
    const dot = name.indexOf('.', slash + 1);
    return dot < 0 ? name : name.slice(0, dot);
  }
  function packageColour(name) {
    const key = packageOf(name);
    let colour = colours.byName.get(key);
    if (!colour) {
      let hash = 2166136261;
      for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 16777619) >>> 0;
      // The runtime and the kernel's edge are grey, a module has a hue of its own.
      const quiet = /^(runtime|internal\/|syscall|sync)/.test(key);
      const hue = hash % 360;
      colour = dark.matches
        ? `hsl(${hue} ${quiet ? 6 : 34}% ${quiet ? 28 : 33}%)`
        : `hsl(${hue} ${quiet ? 5 : 52}% ${quiet ? 84 : 80}%)`;
      colours.byName.set(key, colour);
    }
    return colour;
  }
  // Change of share, in points.
  function changeColour(points) {
    const strength = Math.min(1, Math.sqrt(Math.abs(points) / profile().most));
    if (Math.abs(points) < 0.2) return colours.neutral;
    const full = points > 0 ? colours.grew : colours.shrank;
    const mix = colours.base.map((base, i) => Math.round(base + (full[i] - base) * (0.15 + 0.85 * strength)));
    return `rgb(${mix.join(' ')})`;
  }
  function textColour(fill) {
    const rgb = fill.match(/^rgb\((\d+) (\d+) (\d+)/);
    if (!rgb) return colours.ink;
    const [r, g, b] = rgb.slice(1).map(Number);
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? '#111' : '#fff';
  }

  // ---- drawing -----------------------------------------------------------------------------------------------------

  const canvas = $('canvas');
  const scroll = $('scroll');
  const pen = canvas.getContext('2d');
  let drawn = [];            // what the pointer can hit: { x, y, w, tree, i }
  let hatch = null;
  let queued = false;
  const redraw = () => {
    if (!queued) {
      queued = true;
      requestAnimationFrame(() => { queued = false; draw(); });
    }
  };

  // Places of the visible part of a subtree, row by row; subtrees narrower than THIN are skipped whole.
  function place(p, tree, root, width) {
    const whole = weight(p, tree.total[root], tree.totalBefore[root]) || 1;
    const scale = width / whole;
    const base = tree.depth[root];
    const next = [0];
    const boxes = [];
    let rows = 0;
    for (let i = root; i < tree.end[root];) {
      const depth = tree.depth[i] - base;
      const w = weight(p, tree.total[i], tree.totalBefore[i]) * scale;
      const x = next[depth];
      next[depth] = x + w;
      if (w < THIN) {
        const last = boxes[boxes.length - 1];
        if (last && last.dust && last.row === depth && x - (last.x + last.w) < 0.01) last.w += w;
        else boxes.push({ x, w, row: depth, i, dust: true });
        i = tree.end[i];
      } else {
        boxes.push({ x, w, row: depth, i, dust: false });
        next[depth + 1] = x;
        rows = Math.max(rows, depth);
        i++;
      }
    }
    return { boxes, rows: rows + 1 };
  }

  // The bands of the current view: each a placed tree, with the row it starts in and the way it grows.
  function bands(width) {
    const p = profile();
    if (state.view === 'sandwich' && state.sandwich) {
      const { up, down } = state.sandwich;
      const above = place(p, up, 0, width);
      const below = place(p, down, 0, width);
      return [
        { tree: up, ...above, row: above.rows - 1, grows: -1, skipRoot: true },
        { tree: down, ...below, row: above.rows - 1, grows: 1 },
      ];
    }
    const path = [];
    for (let i = p.tree.parent[state.zoom]; i >= 0; i = p.tree.parent[i]) path.unshift(i);
    const zoomed = place(p, p.tree, state.zoom, width);
    const above = path.map((i, row) => ({ x: 0, w: width, row, i, dust: false, dimmed: true }));
    const boxes = above.concat(zoomed.boxes.map((box) => ({ ...box, row: box.row + path.length })));
    const rows = zoomed.rows + path.length;
    const flame = state.direction === 'flame';
    return [{ tree: p.tree, boxes, rows, row: flame ? rows - 1 : 0, grows: flame ? -1 : 1 }];
  }

  function draw() {
    const width = scroll.clientWidth;
    const height = scroll.clientHeight;
    if (!width || !height) return;
    const list = bands(width);
    const rows = state.view === 'sandwich' ? list[0].rows - 1 + list[1].rows : list[0].rows;
    const content = Math.max(rows * ROW + 2, height);
    $('spacer').style.height = content + 'px';
    const ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = width + 'px';
      canvas.style.height = height + 'px';
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = '12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
    pen.textBaseline = 'middle';
    drawn = [];
    // A flame stands on the bottom of the window even where it is low.
    const offset = (state.direction === 'flame' && state.view === 'graph' ? content - rows * ROW - 2 : 0) - scroll.scrollTop;
    for (const band of list) {
      for (const box of band.boxes) {
        if (band.skipRoot && box.row === 0) continue;
        const y = offset + (band.row + band.grows * box.row) * ROW;
        if (y > height || y + ROW < 0) continue;
        drawBox(band.tree, box, y);
      }
    }
  }

  function drawBox(tree, { x, w, i, dust, dimmed }, y) {
    const p = profile();
    if (dust) {
      if (w < 0.3) return;
      pen.fillStyle = colours.dust;
      pen.fillRect(x, y, Math.max(w, 0.5), ROW - 1);
      return;
    }
    const name = tree.name[i];
    const label = i === 0 && tree === p.tree ? rootLabel() : p.names[name];
    const [now, then] = shares(p, tree.total[i], tree.totalBefore[i]);
    const isRoot = i === 0 && tree === p.tree;
    const fill = isRoot ? colours.neutral : p.diff ? changeColour(100 * (now - then)) : packageColour(label);
    const inset = w > 3 ? 1 : w > 1.5 ? 0.5 : 0;
    pen.globalAlpha = dimmed ? 0.55 : state.matches && !state.matches.has(name) ? 0.35 : 1;
    pen.fillStyle = fill;
    pen.fillRect(x, y, w - inset, ROW - 1);
    if (p.diff && tree.total[i] === 0 && w > 2) {
      // Vanished: hatched, so that it is told from a mere decrease without colour too.
      pen.fillStyle = hatch;
      pen.fillRect(x, y, w - inset, ROW - 1);
    }
    if (p.diff && tree.totalBefore[i] === 0 && w > 14 && !isRoot) {
      pen.fillStyle = `rgb(${colours.grew.join(' ')})`;
      pen.fillRect(x, y, 3, ROW - 1);
    }
    pen.globalAlpha = dimmed ? 0.7 : 1;
    if (state.matches && state.matches.has(name) && !isRoot) {
      pen.fillStyle = colours.hit;
      pen.fillRect(x, y + ROW - 4, w - inset, 3);
    }
    if (w > 28) {
      pen.fillStyle = dimmed ? colours.ink : state.matches && !state.matches.has(name) ? colours.soft : textColour(fill);
      pen.fillText(fit(label, w - 10), x + 6, y + ROW / 2);
    }
    pen.globalAlpha = 1;
    if (tree !== p.tree && i === 0) {
      // The function that a sandwich is about.
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, Math.max(w - 2, 2), ROW - 3);
    }
    if (tree === p.tree && i === state.focus && document.activeElement === $('mirror')) {
      pen.strokeStyle = colours.accent;
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, Math.max(w - 2, 2), ROW - 3);
    }
    drawn.push({ x, y, w, tree, i });
  }

  function rootLabel() {
    const p = profile();
    return { cpu: 'all CPU time', heap: 'all live heap', goroutine: 'all goroutines' }[p.kind] || 'all';
  }

  // The end of a Go name tells most: a long path is cut from the left, up to its last element, and then from the right.
  const widths = new Map();
  function measure(text) {
    let width = widths.get(text);
    if (width === undefined) {
      width = pen.measureText(text).width;
      if (widths.size > 20000) widths.clear();
      widths.set(text, width);
    }
    return width;
  }
  function fit(text, width) {
    if (measure(text) <= width) return text;
    const short = text.slice(text.lastIndexOf('/') + 1);
    if (measure(short) <= width) return short;
    let letters = Math.floor(short.length * width / measure(short));
    while (letters > 1 && measure(short.slice(0, letters) + '…') > width) letters--;
    return letters < 2 ? '' : short.slice(0, letters) + '…';
  }

  function makeHatch() {
    const tile = document.createElement('canvas');
    tile.width = tile.height = 6;
    const line = tile.getContext('2d');
    line.strokeStyle = dark.matches ? 'rgb(0 0 0 / .45)' : 'rgb(255 255 255 / .75)';
    line.lineWidth = 1.6;
    for (const shift of [-6, 0, 6]) {
      line.beginPath();
      line.moveTo(shift, 6);
      line.lineTo(shift + 6, 0);
      line.stroke();
    }
    hatch = pen.createPattern(tile, 'repeat');
  }

  // ---- words about a frame -----------------------------------------------------------------------------------------

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

  // ---- treegrid mirror ---------------------------------------------------------------------------------------------

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

  // ---- pointer -----------------------------------------------------------------------------------------------------

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
  dark.addEventListener('change', () => { readColours(); makeHatch(); refresh(); });

  // ---- search ------------------------------------------------------------------------------------------------------

  function search(text) {
    state.search = text;
    const p = profile();
    state.matches = null;
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
      p.names.forEach((name, at) => at > 0 && test(name) && state.matches.add(at));
      // Outermost matches only: nothing is counted twice.
      let now = 0;
      let then = 0;
      const { tree } = p;
      for (let i = 1; i < tree.depth.length;) {
        if (state.matches.has(tree.name[i])) {
          now += tree.total[i];
          then += tree.totalBefore[i];
          i = tree.end[i];
        } else {
          i++;
        }
      }
      $('found').textContent = `${state.matches.size} functions, ${share(now, p.whole.after)}`
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

  // ---- tables ------------------------------------------------------------------------------------------------------

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
      const name = el('button', { title: p.names[row.name] + (p.files[row.name] ? '\n' + p.files[row.name] : '') }, p.names[row.name]);
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
      // The function itself in sight, with some callers above.
      scroll.scrollTop = state.sandwich.up.deepest * ROW - scroll.clientHeight / 3;
      redraw();
    });
  }

  // ---- controls ----------------------------------------------------------------------------------------------------

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
    search(state.search);
    summary();
    showDetails(profile().tree, 0);
    refresh();
    if (state.direction === 'flame') scroll.scrollTop = scroll.scrollHeight;
  }
  function summary() {
    const p = profile();
    const side = (f, total) => {
      if (p.kind !== 'cpu') return amount(total);
      const seconds = f.duration_ms / 1000;
      const rate = seconds ? `${(total / 1e9 / seconds).toFixed(2)} CPUs over ${seconds.toFixed(1)} s` : amount(total);
      return `${rate} (${f.samples.toLocaleString('en')} samples)`;
    };
    const parts = [el('b', {}, side(p.after, p.tree.total[0]))];
    if (p.diff) {
      const age = (p.after.at_ms - p.before.at_ms) / 1000;
      const ago = age >= 120 ? `${Math.round(age / 60)} min` : `${Math.round(age)} s`;
      parts.push(` now, ${side(p.before, p.tree.totalBefore[0])} ${ago} earlier. Width and colour compare shares, not totals.`);
    }
    if (!p.diff) parts.push(' · ' + new Date(p.after.at_ms).toISOString().replace('T', ' ').slice(0, 19) + ' UTC');
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
    const button = el('button', { 'data-kind': at }, { cpu: 'CPU', heap: 'Heap', goroutine: 'Goroutines' }[p.kind] || p.kind);
    button.addEventListener('click', () => setProfile(at));
    $('kinds').append(button);
  });
  $('reset').addEventListener('click', () => zoom(0));

  // The address may say what to show first: #view=table&kind=1&search=text&sandwich=function&direction=flame
  function fromAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    Object.assign(state, { at: 0, view: 'graph', direction: 'icicle', width: 'both', zoom: 0, focus: 0, sandwich: null });
    $('reset').disabled = true;
    if (wanted.has('kind') && profiles[Number(wanted.get('kind'))]) state.at = Number(wanted.get('kind'));
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
})();
