/* What a lesson does to the page: finds tabs and fields, reads what a control says, marks what matters, and puts its card
   where it hides least. */
(() => {
  "use strict";
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
    list.focus();
    const option = await until("ul.options li, ul[role=listbox] li", () => true);
    const options = [...(option?.parentElement.children ?? [])];
    options.find((one) => one.textContent.trim().replace(/^✓\s*/, "") === value)?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
    list.blur();
  };

  const unmark = () => {
    for (const marked of document.querySelectorAll("[data-ms-touch], [data-ms-figure]")) {
      delete marked.dataset.msTouch;
      delete marked.dataset.msFigure;
    }
  };
  const unfold = (node) => {
    for (let up = node; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  };
  /** Mark a step's figure and what to touch once they are there; false if the learner has gone on meanwhile. */
  const mark = async (step, card, current) => {
    const shown = async (selector) => {
      unfold(await until(selector));
      return until(selector, (node) => node.checkVisibility());
    };
    const [figure, touch] = [await shown(step.figure), await shown(step.touch)];
    if (!current()) return false;
    unmark();
    if (figure) (figure.closest(".ms-card") ?? figure).dataset.msFigure = "";
    if (touch) touch.dataset.msTouch = "";
    const first = innerWidth <= 820 && step.done ? touch : figure;
    first?.scrollIntoView({ block: "center", behavior: still.matches ? "auto" : "smooth" });
    setTimeout(settle, still.matches ? 0 : 500, card, figure, touch);
    return true;
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

  window.mergescopeScreen = { SIDES, until, tab, go, set, inside, read, remember, mark, unmark };
})();
