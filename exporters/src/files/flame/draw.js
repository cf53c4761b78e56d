// One canvas of the window's size: what is at least a pixel fraction wide is drawn, the rest is skipped by whole subtrees.

// ---- colour ----------------------------------------------------------------------------------------------------------

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

// The part of a name that says whose code it is. Rust and C++: before the first `::`. Go: everything before the last path
// element's first dot. A plain C name says nothing, so its file does.
function packageOf(name, file) {
  const path = name.indexOf('::');
  if (path > 0) return name.slice(0, path).replace(/^[<&*(\s]+/, '');
  const slash = name.lastIndexOf('/');
  const dot = name.indexOf('.', slash + 1);
  if (dot > 0) return name.slice(0, dot);
  return name[0] === '[' ? name.slice(0, name.indexOf('+') + 1) : file.slice(0, file.lastIndexOf('/') + 1);
}
function packageColour(name, file) {
  const key = packageOf(name, file);
  let colour = colours.byName.get(key);
  if (!colour) {
    let hash = 2166136261;
    for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 16777619) >>> 0;
    // Paths that differ in few letters must not have like hues.
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 0;
    hash = (hash ^ (hash >>> 13)) >>> 0;
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

// ---- drawing ---------------------------------------------------------------------------------------------------------

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
function place(p, tree, root, width, shift) {
  const whole = weight(p, tree.total[root], tree.totalBefore[root]) || 1;
  const scale = width / whole;
  const base = tree.depth[root];
  const hits = state.hits && state.hits.tree === tree ? state.hits.before : null;
  const next = [];
  next[shift] = 0;
  const boxes = [];
  let rows = shift;
  for (let i = root; i < tree.end[root];) {
    const depth = tree.depth[i] - base + shift;
    const w = weight(p, tree.total[i], tree.totalBefore[i]) * scale;
    const x = next[depth];
    next[depth] = x + w;
    if (w < THIN) {
      const last = boxes[boxes.length - 1];
      const hit = hits !== null && hits[tree.end[i]] > hits[i];
      if (last && last.dust && last.row === depth && last.hit === hit && x - (last.x + last.w) < 0.01) last.w += w;
      else boxes.push({ x, w, row: depth, i, dust: true, hit });
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
    const above = place(p, up, 0, width, 0);
    const below = place(p, down, 0, width, 0);
    return [
      { tree: up, ...above, row: above.rows - 1, grows: -1, skipRoot: true },
      { tree: down, ...below, row: above.rows - 1, grows: 1 },
    ];
  }
  const path = [];
  for (let i = p.tree.parent[state.zoom]; i >= 0; i = p.tree.parent[i]) path.unshift(i);
  const zoomed = place(p, p.tree, state.zoom, width, path.length);
  const above = path.map((i, row) => ({ x: 0, w: width, row, i, dust: false, dimmed: true }));
  const boxes = above.concat(zoomed.boxes);
  const { rows } = zoomed;
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

function drawBox(tree, { x, w, i, dust, hit, dimmed }, y) {
  const p = profile();
  if (dust) {
    if (hit) {
      pen.fillStyle = colours.hit;
      pen.fillRect(x, y, Math.max(w, 1.5), ROW - 1);
      return;
    }
    if (w < 0.3) return;
    pen.fillStyle = colours.dust;
    pen.fillRect(x, y, Math.max(w, 0.5), ROW - 1);
    return;
  }
  const name = tree.name[i];
  const label = i === 0 && tree === p.tree ? rootLabel() : p.names[name];
  const [now, then] = shares(p, tree.total[i], tree.totalBefore[i]);
  const isRoot = i === 0 && tree === p.tree;
  const isOwner = isRoot || p.owners.has(name);
  const fill = p.diff && !isRoot ? changeColour(100 * (now - then)) : isOwner ? colours.neutral : packageColour(label, p.files[name]);
  const inset = w > 3 ? 1 : w > 1.5 ? 0.5 : 0;
  pen.globalAlpha = dimmed ? 0.55 : state.matches && !state.matches.has(name) ? 0.35 : 1;
  pen.fillStyle = fill;
  pen.fillRect(x, y, w - inset, ROW - 1);
  if (p.diff && tree.total[i] === 0 && w > 2) {
    // Vanished: hatched, so that it is told from a mere decrease without colour too.
    pen.fillStyle = hatch;
    pen.fillRect(x, y, w - inset, ROW - 1);
    if (w > 28) {
      // No stripes behind letters.
      pen.fillStyle = fill;
      pen.fillRect(x + 4, y + 2, measure(fit(label, w - 10)) + 4, ROW - 5);
    }
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
  return p.process ? p.names[p.process.name] : KINDS[p.kind][1];
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
