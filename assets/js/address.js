/* The page's address: the open tab, the merge, and what was chosen on that tab; and back again, by a link and by the browser's Back and
   Forward. A move of a slider changes the address where it is; a tab, a pool, a method or a choice adds a step to go back to. */
(() => {
  "use strict";
  const PAUSE = 400; // ms between two changes of one step: browsers refuse more than about three a second
  const KEPT = /^(__.*|lesson|step|present|quiz|figure)$/; // of others: Gradio's and the lessons' keys stay as they are
  const START = "merge"; // the tab that an address need not name
  const parts = () => location.search.slice(1).split("&").filter(Boolean);
  const key = (part) => decodeURIComponent(part.split("=", 1)[0]);
  const value = (part) => decodeURIComponent(part.slice(part.indexOf("=") + 1).replaceAll("+", " "));

  /** The address in its parts; `chosen` are the choices "panel.name". Anybody else's keys (utm_source) are part of `merge`, whose reader
      passes them over, and go with its next move. */
  const read = () => {
    const found = { tab: START, merge: [], chosen: {} };
    for (const part of parts()) {
      if (key(part) === "tab") found.tab = value(part);
      else if (key(part).includes(".")) found.chosen[key(part)] = value(part);
      else if (!KEPT.test(key(part))) found.merge.push(part);
    }
    return { ...found, merge: found.merge.join("&") };
  };

  const shown = read();
  const listeners = []; // {panel, tell}: who takes choices up
  const pending = new Set(); // panels that have been told and are not done
  let known = null; // the merge on the screen, as a query
  let own = false; // it is of a visitor's own pool, which no address names
  let restoring = false;
  let started = false;
  let waiting = null;
  let ask = () => {};

  const of = (panel, chosen) => Object.entries(chosen).filter(([name]) => name.startsWith(`${panel}.`));
  const write = (how) => {
    clearTimeout(waiting);
    waiting = null;
    if (document.body.dataset.inLesson) return; // a lesson's step has an address of its own
    const query = [
      ...parts().filter((part) => KEPT.test(key(part))),
      ...(shown.tab === START ? [] : [`tab=${shown.tab}`]),
      ...(shown.merge ? [shown.merge] : []),
      ...of(shown.tab, shown.chosen).map(([name, text]) => `${name}=${encodeURIComponent(text)}`),
    ].join("&");
    history[how]({ own }, "", `${location.pathname}${query && "?"}${query}${location.hash}`);
  };

  /** Take a change up, as a new step of the history or in the present one. */
  const change = (step, make) => {
    if (step && waiting) write("replaceState");
    make();
    if (step) write("pushState");
    else waiting ??= setTimeout(write, PAUSE, "replaceState");
  };

  const buttons = () => [...document.querySelectorAll("#ms-tabs > .tab-wrapper [role=tab]")];
  const open = () => {
    if (!pending.size) buttons().find((tab) => tab.dataset.tabId === shown.tab && tab.ariaSelected !== "true")?.click();
  };
  const followTabs = () => {
    const tab = buttons().find((one) => one.ariaSelected === "true")?.dataset.tabId;
    if (!started || !tab || tab === shown.tab) return;
    change(true, () => (shown.tab = tab));
  };
  /** A tab takes the merge over when it is opened; one that was open before the address's merge came takes it over now. */
  const takeOver = () => {
    const tab = buttons().find((one) => one.ariaSelected === "true");
    document.querySelector(`#ms-again-${tab?.dataset.tabId}`)?.click();
  };

  const tell = (panel, values) => {
    if (!Object.keys(values).length) return;
    for (const listener of listeners.filter((one) => one.panel === panel)) listener.tell(values);
  };

  const address = {
    /** Say what was chosen, {"panel.name": text}; null is no choice. */
    choose(values, step = true) {
      const same = Object.entries(values).every(([name, text]) => (shown.chosen[name] ?? null) === (text === null ? null : String(text)));
      if (same) return;
      change(step, () => {
        for (const [name, text] of Object.entries(values)) {
          if (text === null) delete shown.chosen[name];
          else shown.chosen[name] = String(text);
        }
      });
    },
    /** Say which merge is on the screen; null for one that no address names. */
    merge(query) {
      const before = known;
      known = query;
      if (before === query) return;
      const first = before === null && !own;
      own = query === null;
      const restored = restoring;
      restoring = false;
      // the address that the page was opened with stays until something moves, and is right again after going back to it
      if ((first && !own) || (restored && !shown.merge)) return;
      const names = (text) => ["pool", "method"].map((name) => new URLSearchParams(text ?? "").get(name)).join();
      change(!restored && (!shown.merge || names(before) !== names(query)), () => (shown.merge = query ?? ""));
    },
    /** Hear of choices of a panel that the address brings: {name: text or null}. */
    listen(panel, callback) {
      listeners.push({ panel, tell: callback });
      if (started) tell(panel, Object.fromEntries(of(panel, shown.chosen)));
    },
    /** Let a component of Gradio send the panels' choices, and a merge to `restore`, to the server; each then says `arrived`. */
    connect(trigger, restore, panels) {
      for (const panel of panels) {
        listeners.push({ panel, tell: (values) => { pending.add(panel); trigger(panel, { values }); } });
      }
      ask = (query) => { pending.add("restore"); trigger(restore, { query }); };
      // of the body: the tabs may not be there yet
      new MutationObserver(followTabs).observe(document.body, { subtree: true, attributeFilter: ["aria-selected"] });
    },
    /** Say at the top of the page what a link asks for and cannot get. */
    refuse(name, text) {
      const words = Object.assign(document.createElement("p"), { className: "ms-error", role: "alert" });
      words.textContent = `The link's ${name} = “${text.slice(0, 40)}” means nothing here.`;
      document.querySelector("#ms-address").append(words);
    },
    arrived(panel) {
      pending.delete(panel);
      if (panel === "restore") takeOver();
      open();
    },
    /** Open what the address names, when the merge of the address is on the screen. */
    start() {
      started = true;
      takeOver(); // a visitor may have been quicker
      window.mergescopeAccess();
      if (!buttons().some((tab) => tab.dataset.tabId === shown.tab)) {
        address.refuse("tab", shown.tab);
        shown.tab = START;
      }
      if (shown.tab === START) followTabs();
      tell(shown.tab, Object.fromEntries(of(shown.tab, shown.chosen)));
      open();
    },
  };

  window.addEventListener("popstate", ({ state }) => {
    clearTimeout(waiting);
    waiting = null;
    const next = read();
    const before = Object.fromEntries(of(next.tab, shown.chosen).map(([name]) => [name, null]));
    const values = Object.fromEntries(Object.entries({ ...before, ...next.chosen }).filter(([name, text]) => (shown.chosen[name] ?? null) !== text));
    const merged = next.merge !== shown.merge && !state?.own;
    for (const name of Object.keys(before)) delete shown.chosen[name];
    Object.assign(shown.chosen, next.chosen);
    Object.assign(shown, { tab: next.tab, merge: next.merge });
    if (merged) {
      restoring = true;
      ask(next.merge);
    }
    tell(next.tab, values);
    open();
  });
  window.mergescopeAddress = address;
})();
