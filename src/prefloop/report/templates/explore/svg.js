// Pieces of a drawing as SVG text: axes with round ticks, paths, dots and words. Sizes are pixels.
'use strict';

const DASHES = ['', '7 4', '2 4', '9 4 2 4'];

const px = (x) => String(Math.round(x * 10) / 10);
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** `M x y L x y …` through points. */
const through = (points) => `M${points.map(([x, y]) => `${px(x)} ${px(y)}`).join('L')}`;

const stroke = (points, style, dash = 0) =>
  `<path class="${style}"${dash ? ` stroke-dasharray="${DASHES[dash]}"` : ''} d="${through(points)}"/>`;
const area = (points, style) => `<path class="${style}" d="${through(points)}Z"/>`;
const dot = ([x, y], radius = 4) => `<circle class="dot" cx="${px(x)}" cy="${px(y)}" r="${radius}"/>`;
const words = (x, y, text, style = 'tick', anchor = 'start') =>
  `<text class="${style}" x="${px(x)}" y="${px(y)}" text-anchor="${anchor}">${escaped(text)}</text>`;

/** Round numbers that cover an interval. */
function ticks(low, high, count = 4) {
  if (!(high > low)) [low, high] = [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999) * power;
  const first = Math.floor(low / step + 0.1);
  const last = Math.ceil(high / step - 0.1);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** Labels with as many decimals as the step between them needs. */
function tickLabels(values) {
  const step = values[1] - values[0];
  let places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (Math.abs(step * 10 ** places - Math.round(step * 10 ** places)) > 1e-6) places += 1;
  return values.map((x) => fixed(x, places));
}

/** A plot's place on a canvas of this width: where values lie, and its frame. */
function plane(width, height, x, y, margin = {}) {
  const { left = 46, right = 26, top = 12, bottom = 42 } = margin;
  const inner = { left, top, right: width - right, bottom: height - bottom };
  const at = (low, high, from, to, bend) => (v) => from + (bend((v - low) / (high - low)) * (to - from));
  const plain = (share) => share;
  return {
    width,
    height,
    ...inner,
    x: at(x.low, x.high, inner.left, inner.right, plain),
    y: at(y.low, y.high, inner.bottom, inner.top, y.root ? Math.sqrt : plain),
  };
}

/** Grid lines, ticks and titles of both axes. */
function frame(p, x, y) {
  const xLabels = x.labels ?? tickLabels(x.ticks);
  const yLabels = y.labels ?? tickLabels(y.ticks);
  const lines = y.ticks.map((t) => stroke([[p.left, p.y(t)], [p.right, p.y(t)]], 'grid'));
  const left = y.ticks.map((t, i) => words(p.left - 8, p.y(t) + 4, yLabels[i], 'tick', 'end'));
  const below = x.ticks.map((t, i) => words(p.x(t), p.bottom + 18, xLabels[i], 'tick', 'middle'));
  const title = words((p.left + p.right) / 2, p.height - 6, x.title, 'tick', 'middle');
  return [...lines, stroke([[p.left, p.bottom], [p.right, p.bottom]], 'axis'), ...left, ...below, title].join('');
}

/** The whole drawing. */
const drawing = (p, label, body) =>
  `<svg viewBox="0 0 ${p.width} ${p.height}" width="${p.width}" height="${p.height}" role="img" ` +
  `aria-label="${escaped(label)}">${body}</svg>`;
