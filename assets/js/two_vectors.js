/* Two updates as arrows that one drags, and how far their scaled sum is from each: DO-Merging's theorem 3.1 in the plane.
   With v and w at right angles and lengths of ratio r, the mean relative error at the best scale is 1 - 2 / (r + 1/r)^2:
   least, 1/2, where both are equally long. */
(() => {
  "use strict";
  const SIZE = 220;
  const MIDDLE = SIZE / 2;
  const UNIT = 62;
  const NODE = "http://www.w3.org/2000/svg";
  const make = (tag, attributes) => {
    const node = document.createElementNS(NODE, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const dot = ([a, b], [c, d]) => a * c + b * d;

  /** Mean over both tasks of ||s(v + w) - task||^2 / ||task||^2 at its best s, and that s. */
  const loss = (v, w) => {
    const sum = [v[0] + w[0], v[1] + w[1]];
    const [vv, ww, nn] = [dot(v, v), dot(w, w), dot(sum, sum)];
    const first = dot(sum, v) / vv + dot(sum, w) / ww; // derivative of the mean error: s n (1/vv + 1/ww) = first
    const s = nn ? first / (nn * (1 / vv + 1 / ww)) : 0;
    const error = (task, own) => s * s * nn / own - 2 * s * dot(sum, task) / own + 1;
    return { s, errors: [error(v, vv), error(w, ww)] };
  };

  window.mergescopeLoss = loss;
  window.mergescopeTwoVectors = (place) => {
    const tips = [[1, 0], [0, 1]];
    const svg = make("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "ms-vectors", role: "group", "aria-label": "Two updates as arrows" });
    const words = document.createElement("p");
    words.setAttribute("role", "status");
    const xy = ([x, y]) => [MIDDLE + UNIT * x, MIDDLE - UNIT * y];
    const line = (name) => svg.appendChild(make("line", { class: name, x1: MIDDLE, y1: MIDDLE }));
    const [sum, ...arrows] = [line("ms-vector-sum"), line("ms-vector-0"), line("ms-vector-1")];
    const knobs = tips.map((_, i) => svg.appendChild(make("circle", { r: 9, class: `ms-vector-${i}`, tabindex: 0, role: "slider", "aria-label": `Length of update ${i + 1}`, "aria-valuemin": 0.2, "aria-valuemax": 1.7 })));

    const draw = () => {
      const { s, errors } = loss(...tips);
      const merged = [s * (tips[0][0] + tips[1][0]), s * (tips[0][1] + tips[1][1])];
      [...arrows, sum].forEach((arrow, i) => {
        const [x, y] = xy(i < 2 ? tips[i] : merged);
        arrow.setAttribute("x2", x);
        arrow.setAttribute("y2", y);
        knobs[i]?.setAttribute("cx", x);
        knobs[i]?.setAttribute("cy", y);
      });
      const lengths = tips.map((tip) => Math.hypot(...tip));
      knobs.forEach((knob, i) => knob.setAttribute("aria-valuenow", lengths[i].toFixed(2)));
      const ratio = Math.max(...lengths) / Math.min(...lengths);
      const mean = (errors[0] + errors[1]) / 2;
      words.textContent = `Ratio of lengths ${ratio.toFixed(2)}: error ${errors[0].toFixed(2)} on task 1, ${errors[1].toFixed(2)} on task 2, mean ${mean.toFixed(2)}.`;
      place.dataset.ratio = ratio.toFixed(2);
      place.dataset.mean = mean.toFixed(3);
    };
    const scaled = (i, length) => {
      const now = Math.hypot(...tips[i]);
      const next = Math.min(1.7, Math.max(0.2, length));
      tips[i] = tips[i].map((value) => (value / now) * next);
      draw();
      svg.dispatchEvent(new Event("input", { bubbles: true }));
    };
    knobs.forEach((knob, i) => {
      knob.addEventListener("pointerdown", (event) => { knob.setPointerCapture(event.pointerId); event.preventDefault(); knob.focus(); });
      knob.addEventListener("pointermove", (event) => {
        if (!knob.hasPointerCapture(event.pointerId)) return;
        const box = svg.getBoundingClientRect();
        const scale = SIZE / box.width;
        tips[i] = [((event.clientX - box.left) * scale - MIDDLE) / UNIT, (MIDDLE - (event.clientY - box.top) * scale) / UNIT];
        scaled(i, Math.hypot(...tips[i]) || 0.2);
      });
      knob.addEventListener("keydown", (event) => {
        const by = { ArrowUp: 0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowLeft: -0.1 }[event.key];
        if (!by) return;
        event.preventDefault();
        event.stopPropagation(); // the card's own arrows walk the lesson
        scaled(i, Math.hypot(...tips[i]) + by);
      });
    });
    place.replaceChildren(svg, words);
    draw();
  };
})();
