/* What a lesson does to the page: finds tabs and fields, reads what a control says, marks what matters, and puts its card
   where it hides least. */
(() => {
  "use strict";
  const HOLD = 6000; // ms
  const SIDES = ["right", "middle", "left"];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const tabs = () => [...document.querySelectorAll("#ms-tabs > .tab-wrapper [role=tab]")];
  const tab = () => tabs().find((one) => one.getAttribute("aria-selected") === "true")?.textContent.trim();
  const go = (name) => {
    const known = tabs().find((one) => one.textContent.trim() === name && one.checkVisibility());
    if (known) return known.click();
    document.querySelector("#ms-tabs .overflow-menu > button")?.click(); // on a narrow page it is in the menu
    setTimeout(() => [...document.querySelectorAll("#ms-tabs .overflow-dropdown button")].find((one) => one.textContent.trim() === name)?.click());
  };
  const until = async (selector, fits = () => true) => {
    for (let tries = 0; tries < 200; tries += 1) {
      const found = document.querySelector(selector);
      if (found && fits(found)) return found;
      await new Promise((rest) => setTimeout(rest, 50));
    }
    return null;
  };
  const set = (field, value) => {
    field.value = value;
    for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const inside = (node) => (node?.matches("select, input, textarea") ? node : node?.querySelector("select, textarea, input"));
  /** What a control says: a number, the chosen option, a text. */
  const read = (control) => {
    const number = control.querySelector("input[type=number]");
    if (number) return Number(number.value);
    const chosen = control.querySelector("label.selected, label:has(input:checked)");
    return (chosen?.textContent ?? inside(control)?.value ?? "").trim();
  };

  /** Give a function that makes a control say again what it says now. */
  const remember = (control) => {
    const picked = [...control.querySelectorAll("label")].find((label) => label.matches(".selected, :has(input:checked)"));
    if (picked) return () => picked.click();
    const list = control.querySelector("[role=combobox], [role=listbox]");
    if (list?.matches("input")) {
      const { value } = list;
      return () => list.value === value || choose(list, value);
    }
    const field = control.querySelector("input[type=number]") ?? (control.matches("select, textarea") ? control : control.querySelector("select, textarea"));
    const value = field?.value;
    return () => {
      if (!field || field.value === value) return;
      set(field, value);
      field.dispatchEvent(new Event("blur"));
    };
  };
  /** Choose an option of one of Gradio's drop-down lists. */
  const choose = async (list, value) => {
    if (!list.checkVisibility()) return; // on a tab that is not shown it cannot be opened
    list.focus();
    await until(`#${CSS.escape(list.getAttribute("aria-controls"))} [role=option]`);
    const options = [...document.querySelectorAll(`#${CSS.escape(list.getAttribute("aria-controls"))} [role=option]`)];
    options.find((one) => one.ariaLabel === value)?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true, cancelable: true }));
    list.blur();
  };

  const unmark = () => {
    for (const marked of document.querySelectorAll("[data-ms-touch], [data-ms-figure]")) {
      delete marked.dataset.msTouch;
      delete marked.dataset.msFigure;
    }
  };
  /** Open what a node is folded into, and choose the part of its panel where only one is seen at a time; `undo` takes what chooses
      the former part again. */
  const unfold = (node, undo) => {
    for (let up = node; up; up = up.parentElement) {
      if (up.tagName === "DETAILS") up.open = true;
      for (const group of document.querySelectorAll("[data-part]")) {
        const { part, shown } = group.dataset;
        if (!up.classList.contains(part) || shown === "all" || up.classList.contains(`${part}-${shown}`)) continue;
        const press = (key) => group.querySelector(`[role=radio][data-key="${key}"]`)?.click();
        undo.push(() => press(shown));
        press([...up.classList].find((name) => name.startsWith(`${part}-`))?.slice(part.length + 1));
      }
    }
  };
  /** Mark a step's figure and what to touch once they are there; false if the learner has gone on meanwhile. */
  const mark = async (step, card, undo, current) => {
    const shown = async (selector) => {
      unfold(await until(selector), undo);
      return until(selector, (node) => node.checkVisibility());
    };
    const [figure, touch] = [await shown(step.figure), await shown(step.touch)];
    if (!current()) return false;
    unmark();
    if (figure) (figure.closest(".ms-card") ?? figure).dataset.msFigure = "";
    if (touch) touch.dataset.msTouch = "";
    const first = innerWidth <= 820 && step.done ? touch : figure;
    look(first);
    setTimeout(settle, still.matches ? 0 : 500, card, figure, touch);
    return true;
  };
  /** Bring a node into view. Figures that are drawn late push others down: hold it there for a while, until somebody takes the page over. */
  const look = (node) => {
    const page = document.querySelector(".gradio-container");
    if (!node || !page) return;
    node.scrollIntoView({ block: "center", behavior: still.matches ? "auto" : "smooth" });
    const hold = new ResizeObserver(() => node.scrollIntoView({ block: "center" }));
    const end = new AbortController();
    const stop = () => { hold.disconnect(); end.abort(); };
    for (const kind of ["wheel", "pointerdown", "touchstart", "keydown"]) addEventListener(kind, stop, { signal: end.signal, capture: true, passive: true });
    setTimeout(() => hold.observe(page), 600);
    setTimeout(stop, HOLD);
  };
  /** Put the card where it hides least of the figure and of what to touch, unless somebody has moved it. */
  const settle = (card, ...nodes) => {
    if (innerWidth <= 820 || card.style.left) return;
    const boxes = nodes.filter(Boolean).map((node) => node.getBoundingClientRect());
    const hidden = (side) => {
      card.dataset.side = side;
      const mine = card.getBoundingClientRect();
      const shared = (box) => Math.max(0, Math.min(mine.right, box.right) - Math.max(mine.left, box.left)) * Math.max(0, Math.min(mine.bottom, box.bottom) - Math.max(mine.top, box.top));
      return boxes.reduce((total, box) => total + shared(box), 0);
    };
    card.dataset.side = SIDES.map((side) => [hidden(side), side]).sort(([a], [b]) => a - b)[0][1];
  };

  window.mergescopeScreen = { SIDES, until, tab, go, set, inside, read, remember, unfold, mark, unmark, look };
})();
