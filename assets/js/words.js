/* Every term explained where it stands: one tooltip for the page, on hover, focus and tap, with its formula set by the KaTeX that Gradio
   ships and that is fetched when the first formula is shown. Also the hint of a first visit. */
(() => {
  "use strict";
  const LABEL = '[data-testid="block-info"]';
  const { terms, katex } = JSON.parse(document.querySelector("#ms-glossary").textContent);
  const byName = new Map(terms.flatMap((term) => term.names.map((name) => [name.toLowerCase(), term])));
  const names = [...byName.keys()].filter((name) => name.length > 1 || !/[a-z]/.test(name)).sort((a, b) => b.length - a.length);
  const escaped = names.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const ANY = new RegExp(`(?<![\\p{L}\\p{N}])(${escaped.join("|")})(?![\\p{L}\\p{N}])`, "giu");

  /** The terms of a label, the longest names first found; a single Latin letter only where it ends the label ("k", "g"). */
  const termsOf = (text) => {
    const found = [...text.matchAll(ANY)].map(([name]) => byName.get(name.toLowerCase()));
    const last = byName.get(text.trim().split(/\s/).at(-1)?.toLowerCase());
    return [...new Set([...found, last])].filter(Boolean);
  };

  const tip = Object.assign(document.createElement("div"), { id: "ms-tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  let owner = null; // what the tooltip is of, and what it describes
  let described = null;
  let setter = null;

  const set = async (formula, place) => {
    if (!katex) return void (place.textContent = formula);
    setter ??= import(new URL(katex, document.baseURI)).then((module) => module.default);
    (await setter).render(formula, place, { throwOnError: false, output: "mathml" }); // browsers draw MathML without style sheet or fonts
    if (owner) put(owner);
  };

  const put = (at) => {
    const { left, top, bottom } = at.getBoundingClientRect();
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    tip.style.top = `${bottom + height + 14 < innerHeight ? bottom + 6 : Math.max(8, top - height - 6)}px`;
  };

  /** Fill the tooltip with a control's own help and with the terms that stand there; tell whether there is anything. */
  const fill = (help, found) => {
    tip.replaceChildren();
    if (help) tip.append(Object.assign(document.createElement("p"), { textContent: help }));
    for (const term of help ? found.filter((one) => one.formula).slice(0, 1) : found.slice(0, 2)) {
      if (!help) {
        const line = document.createElement("p");
        line.append(Object.assign(document.createElement("b"), { textContent: `${term.names[0]}: ` }), term.says);
        tip.append(line);
      }
      if (term.formula) {
        const formula = document.createElement("div");
        tip.append(formula);
        set(term.formula, formula);
      }
    }
    return tip.childElementCount > 0;
  };

  const hide = () => {
    tip.hidden = true;
    described?.removeAttribute("aria-describedby");
    owner = described = null;
  };
  const show = (at, help, found, control = at) => {
    if (owner === at) return;
    hide();
    if (!fill(help, found)) return;
    [owner, described] = [at, control];
    tip.hidden = false;
    described.setAttribute("aria-describedby", "ms-tip");
    put(at);
  };

  /** What a pointer or the focus is on: a marked term, or the label of a control. */
  const asked = (target) => {
    const term = target.closest?.(".ms-term");
    if (term) return show(term, "", termsOf(term.textContent));
    const label = target.closest?.(LABEL);
    if (label) return show(label, helpOf(label), termsOf(label.textContent));
    hide();
  };
  const helpOf = (label) => label.closest(".block")?.querySelector(".info-text")?.textContent.trim() ?? "";

  document.addEventListener("pointerover", ({ target, pointerType }) => pointerType === "mouse" && asked(target));
  document.addEventListener("click", ({ target }) => target.closest?.(`.ms-term, ${LABEL}`) && (owner = null, asked(target)));
  document.addEventListener("focusin", ({ target }) => {
    if (target.closest(".ms-term")) return asked(target);
    const label = target.matches("input, textarea") && target.matches(":focus-visible") && target.closest(".block")?.querySelector(LABEL);
    if (label) show(label, helpOf(label), termsOf(label.textContent), target);
    else hide();
  });
  document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
  document.addEventListener("scroll", () => owner && (owner.isConnected ? put(owner) : hide()), { capture: true, passive: true });

  /** Mark the first place of every term in a piece of text that is ours. */
  const mark = (element) => {
    const seen = new Set();
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (const text of [...(function* () { while (walker.nextNode()) yield walker.currentNode; })()]) {
      if (text.parentElement.closest(".ms-term, button, code")) continue;
      const parts = [];
      let end = 0;
      for (const found of text.data.matchAll(ANY)) {
        const term = byName.get(found[0].toLowerCase());
        if (!term.formula || seen.has(term)) continue; // everyday words would dot the page
        seen.add(term);
        parts.push(text.data.slice(end, found.index), Object.assign(document.createElement("dfn"), { className: "ms-term", tabIndex: 0, textContent: found[0] }));
        end = found.index + found[0].length;
      }
      if (parts.length) text.replaceWith(...parts, text.data.slice(end));
    }
  };

  const greet = () => {
    document.body.append(tip);
    const hint = document.querySelector("#ms-hint");
    if (!hint || localStorage.getItem("mergescope-hint") === "seen") return;
    hint.hidden = false;
    hint.querySelector("button").addEventListener("click", () => {
      localStorage.setItem("mergescope-hint", "seen");
      hint.remove();
      document.querySelector("#ms-tabs [role=tab][aria-selected=true]")?.focus();
    });
  };

  /** Let labels of controls look as if they could be asked, where they can. */
  const dot = (root) => {
    for (const label of root.querySelectorAll(LABEL)) label.classList.toggle("ms-asked", termsOf(label.textContent).length > 0);
  };

  window.mergescopeWords = { mark, dot, greet, termsOf: (text) => termsOf(text).map((term) => term.names[0]) };
})();
