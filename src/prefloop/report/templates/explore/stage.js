// The picture of the problem, with two knobs: the reward's peak, and the part of the data that is not the reference's.
'use strict';

const STAGE = 270;
const DENSEST = 0.12; // highest probability of its axis: the data's bump reaches 0.113
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Where things lie on the stage. */
function stagePlane(width, arms) {
  const x = armAxis(arms);
  const y = { low: 0, high: DENSEST, ticks: [0, 0.03, 0.06, 0.09, 0.12] };
  return { x, y, p: plane(width, STAGE, x, y, { right: 34, top: 24 }) };
}

/** Reference, data and reward. */
function stageBody(width, problem) {
  const { x, y, p } = stagePlane(width, problem.reference.length);
  const reward = Array.from(problem.reward, (r, a) => [p.x(a), p.bottom - r * (p.bottom - p.top)]);
  const right = [0, 0.5, 1].map((r) => words(p.right + 6, p.bottom - r * (p.bottom - p.top) + 4, String(r), 'tick'));
  return [
    frame(p, x, y),
    area(outline(p, problem.reference), 'reference'),
    stroke(outline(p, problem.data), 'data'),
    stroke(reward, 'reward strong'),
    ...right,
    words(2, 11, 'probability', 'tick'),
    words(width - 2, 11, 'reward', 'tick', 'end'),
  ].join('');
}

/** A knob: a dot with a large area for fingers; its place is set by `place`. */
function knob(name, label) {
  const g = document.createElementNS('http://www.w3.org/2000/svg', 'g');
  g.setAttribute('class', `knob ${name}`);
  g.setAttribute('tabindex', '0');
  g.setAttribute('role', 'slider');
  g.setAttribute('aria-label', label);
  g.innerHTML = '<circle class="touch" r="24"/><circle class="grip" r="9"/>';
  return g;
}

/** The stage in its host; `change` gets the changed parts of the state. */
function makeStage(host, change) {
  host.innerHTML =
    '<svg role="group" aria-label="Reference, data and reward over the arms"><g class="body" aria-hidden="true"></g></svg>';
  const svg = host.firstChild;
  const knobs = { peak: knob('peak', 'Reward’s peak'), other: knob('other', 'Data that are not the reference’s') };
  svg.append(knobs.other, knobs.peak);
  let state = null;
  let plan = null;

  const move = {
    peak: (arm) => change({ peak: onGrid('peak', clamp(arm, 0, 99)) }),
    other: (arm, share) =>
      change({ centre: onGrid('centre', clamp(arm, 0, 99)), coverage: onGrid('coverage', clamp(1 - share, 0, 1)) }),
  };
  for (const [name, g] of Object.entries(knobs)) {
    let held = false;
    g.addEventListener('pointerdown', (event) => {
      held = true;
      g.setPointerCapture(event.pointerId);
      event.preventDefault();
      g.focus({ preventScroll: true });
    });
    g.addEventListener('touchstart', (event) => event.preventDefault(), { passive: false }); // or the page scrolls
    g.addEventListener('pointermove', (event) => {
      if (!held) return;
      const box = svg.getBoundingClientRect();
      const { p } = plan;
      const arm = (event.clientX - box.left - p.x(0)) / (p.x(1) - p.x(0));
      move[name](arm, (p.bottom - (event.clientY - box.top)) / (p.bottom - p.top));
    });
    for (const end of ['pointerup', 'pointercancel']) g.addEventListener(end, () => (held = false));
    g.addEventListener('keydown', (event) => {
      const way = KEYS[event.key];
      if (!way) return;
      event.preventDefault();
      const many = event.shiftKey ? 10 : 1;
      if (name === 'peak') move.peak(state.peak + many * (way[0] - way[1]));
      else move.other(state.centre + many * way[0], 1 - state.coverage - 0.05 * many * way[1]);
    });
  }

  return function draw(now, problem) {
    state = now;
    const width = host.clientWidth;
    plan = stagePlane(width, problem.reference.length);
    const { p } = plan;
    for (const [name, value] of [['viewBox', `0 0 ${width} ${STAGE}`], ['width', width], ['height', STAGE]])
      svg.setAttribute(name, value);
    svg.querySelector('.body').innerHTML = stageBody(width, problem);
    const share = 1 - state.coverage;
    put(knobs.peak, p.x(state.peak), p.top, state.peak, `arm ${state.peak}`);
    const said = `${percent(share)} of the data around arm ${state.centre}`;
    put(knobs.other, p.x(state.centre), p.bottom - share * (p.bottom - p.top), state.centre, said);
  };
}

function put(g, x, y, value, text) {
  g.setAttribute('transform', `translate(${px(x)} ${px(y)})`);
  for (const [name, said] of [['min', 0], ['max', 99], ['now', value], ['text', text]]) g.setAttribute(`aria-value${name}`, said);
}
