/* The linked figures of the Diagnose panel. Python sends inner products of the updates (merging/grams.py) and styled figures without
   numbers (viz/figures/diagnose.py); every number that depends on λ, the weights or γ is computed here, while the slider moves. */
(() => {
  "use strict";
  const REST = 250; // milliseconds after the last move of a slider
  const { GRID, sum, mean, range, columnNorms, living, decoupled, variance, quantiles, energies, effectiveRank } = window.mergescopeNorms;

  window.mergescopeDiagnose = (element, props, watch) => {
    const find = (selector) => element.querySelector(selector);
    const cards = Object.fromEntries([...element.querySelectorAll("[data-figure]")].map((card) => [card.dataset.figure, card]));
    const draws = {};
    const values = {};
    const live = {}; // what the sliders say: scaling, decouple, weight_0 ..
    const chosen = { source: null, target: null, layer: null, kind: null };
    let bundle = null;
    let norms = null;
    let pin = null;
    const kept = new WeakMap(); // column norms -> {modules: percentiles}
    const stale = new Set();
    let seen = new Set(); // figures in the window
    let shaped = {};
    let moving = false;
    let resting = 0;
    let settling = 0;
    let repeated = "";
    const due = new Set(); // sliders that have moved since the last drawing

    for (const [name, card] of Object.entries(cards)) {
      values[name] = { value: null };
      window.mergescopePlot(card, values[name], (_, draw) => { draws[name] = draw; });
      card.addEventListener("ms-pick", ({ detail }) => pick(name, detail));
    }

    const inView = (card) => {
      const { top, bottom } = card.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    const weights = () => bundle.tasks.map((_, i) => live[`weight_${i}`] ?? 1);
    const factor = (w) => (bundle.linear === "mean" ? 1 / sum(w) : bundle.scaled ? live.scaling : 1);
    const selected = () => bundle.place
      .map((place, m) => [place, m])
      .filter(([[layer, kind]]) => (chosen.layer ?? layer) === layer && (chosen.kind ?? kind) === kind)
      .map(([, m]) => m);

    /** One number per pair, at [module][target][source]. */
    const metric = (name, view, w, s) => {
      const T = bundle.tasks.length;
      const { data, own, base, before } = bundle.grams;
      const table = (at) => bundle.modules.map((_, m) => range(T).map((i) => range(T).map((j) => at(m, i, j))));
      if (name === "interference" || name === "to_base") {
        if (!data) return null;
        const size = (m, i) => (name === "interference" ? own[m][i] : base[m][i]);
        if (view === "trained") return table((m, i, j) => Math.sqrt(before[m][i][j] / size(m, i)));
        return table((m, i, j) => Math.abs(s * w[j]) * Math.sqrt(Math.max(0, data[m][i][j][j]) / size(m, i)));
      }
      const source = bundle[view === "trained" ? "before" : "after"][name];
      return table((m, i, j) => (i === j ? null : source[m][i][j]));
    };

    /** The error of the merge on each task's texts, relative to the task's own update there: [module][task]. */
    const errors = (w, s) => {
      const { data, across, own } = bundle.grams;
      if (!data) return null;
      const u = w.map((value) => s * value);
      return bundle.modules.map((_, m) => w.map((_, i) => {
        const gap = bundle.linear
          ? sum(u.map((a, j) => a * sum(u.map((b, k) => b * data[m][i][j][k])))) - 2 * sum(u.map((a, j) => a * across[m][i][j]))
          : s * s * bundle.merge.data[m][i] - 2 * s * bundle.merge.across[m][i];
        return own[m][i] > 0 ? Math.sqrt(Math.max(0, gap + own[m][i]) / own[m][i]) : null;
      }));
    };

    /** The columns as gamma leaves them, kept until gamma or the bundle changes: a weight only shifts their logarithms.
        Where decouple's other options are on, they arrive as they enter the merge, since column norms do not tell what gamma makes of them. */
    const columnsNow = () => {
      if (!bundle.follows_gamma) return norms.separated;
      if (shaped.from !== norms.separated || shaped.gamma !== live.decouple) {
        shaped = { from: norms.separated, gamma: live.decouple, columns: decoupled(norms.separated, norms.alive, live.decouple) };
      }
      return shaped.columns;
    };

    const compute = (withNorms = true) => {
      const w = weights();
      const s = factor(w);
      const choice = find("[data-choice=metric]").value;
      const columns = withNorms ? columnsNow() : null;
      const sizes = w.map(Math.abs);
      return {
        w, s, columns,
        now: metric(choice, "entering", w, s),
        trained: ["trained", "change"].includes(find("[data-choice=view]").value) ? metric(choice, "trained", w, s) : null,
        error: errors(w, s),
        variance: columns && bundle.modules.map((_, m) => variance(columns, sizes, bundle.offsets[m], bundle.offsets[m + 1])),
      };
    };

    /** Percentiles of one adapter's columns in the selected modules, as they are drawn again and again. */
    const spread = (values, modules) => {
      if (!kept.has(values)) kept.set(values, new Map());
      const known = kept.get(values);
      const key = modules.join();
      if (!known.has(key)) {
        const every = modules.length === bundle.modules.length;
        known.set(key, quantiles(every ? values : Float32Array.from(modules.flatMap((m) => [...values.subarray(bundle.offsets[m], bundle.offsets[m + 1])]))));
      }
      return known.get(key);
    };
    const weighted = (line, weight) => (weight ? line.map((value) => value + Math.log10(Math.abs(weight))) : []);

    const put = (name, figure, table, words = "") => {
      const caption = [words, bundle.captions[name]].filter(Boolean).join(" ");
      values[name].value = { figure, caption, table, filename: `mergescope_diagnose_${name}` };
      stale.delete(name);
      if (!moving || seen.has(name)) return draws[name]();
      // while a slider moves, what nobody sees waits until it rests
      stale.add(name);
      clearTimeout(resting);
      resting = setTimeout(() => {
        for (const waiting of stale) draws[waiting]();
        stale.clear();
      }, REST);
    };

    const skeleton = (name) => {
      const { data, layout } = bundle.figures[name];
      return { data: data.map((trace) => ({ ...trace })), layout: { ...layout } };
    };

    /** What is looked at, in words: "Layer 3, value." */
    const part = () => {
      const words = [chosen.layer === null ? "" : `layer ${bundle.layers[chosen.layer]}`, chosen.kind === null ? "" : bundle.kinds[chosen.kind]];
      const text = words.filter(Boolean).join(", ");
      return text ? `Here only ${text}.` : "";
    };

    const difference = (a, b) => a && b && a.map((x, m) => x.map((y, i) => y.map((z, j) => (z === null ? null : z - b[m][i][j]))));

    const shown = (found) => {
      const view = find("[data-choice=view]").value;
      if (view === "trained") return found.trained;
      if (view === "change") return difference(found.now, found.trained);
      if (view === "pinned") return pin && pin.metrics[find("[data-choice=metric]").value] ? difference(found.now, pin.metrics[find("[data-choice=metric]").value]) : null;
      return found.now;
    };

    const heat = (trace, z, signed, digits) => {
      const flat = z.flat().filter((value) => value !== null && Number.isFinite(value));
      const largest = Math.max(1e-9, ...flat.map(Math.abs));
      trace.visible = flat.length > 0;
      trace.z = z;
      trace.text = z.map((row) => row.map((value) => (value === null ? "" : `${signed && value > 0 ? "+" : ""}${value.toFixed(digits)}`.replace(/^([+-]?)0\./, "$1."))));
      trace.colorscale = bundle.scales[signed ? "diverging" : "sequential"];
      [trace.zmin, trace.zmax] = signed ? [-largest, largest] : [0, bundle.metrics[find("[data-choice=metric]").value].unit ? 1 : largest];
    };

    const frame = (x0, x1, y0, y1) => ({ type: "rect", x0, x1, y0, y1, line: { color: "var(--ms-accent)", width: 3 } });

    const drawPairs = (found) => {
      const z3 = shown(found);
      const name = find("[data-choice=metric]").value;
      const signed = name === "cosine" || ["change", "pinned"].includes(find("[data-choice=view]").value);
      const modules = selected();
      const { target, source } = chosen;
      const T = bundle.tasks.length;
      const z = range(T).map((i) => range(T).map((j) => (z3 ? mean(modules.map((m) => z3[m][i][j])) : null)));
      const [pairs, map] = [skeleton("pairs"), skeleton("map")];
      heat(pairs.data[0], z, signed, 2);
      const directed = bundle.metrics[name].directed;
      pairs.data[0].hovertemplate = directed ? "update of %{x}<br>on texts of %{y}<br>%{z:.3f}<extra></extra>" : "%{x} and %{y}<br>%{z:.3f}<extra></extra>";
      pairs.layout.xaxis = { ...pairs.layout.xaxis, title: { ...pairs.layout.xaxis.title, text: directed ? "update of (on texts of the task at the left)" : "" } };
      pairs.layout.shapes = target === null || source === null ? [] : [frame(source - 0.5, source + 0.5, target - 0.5, target + 0.5)];
      if (!z3) {
        pairs.layout.annotations = map.layout.annotations = [{ text: bundle.grams.data ? "pinned before the texts were read" : "reading texts …", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
        for (const figure of [pairs, map]) for (const axis of ["xaxis", "yaxis"]) figure.layout[axis] = { ...figure.layout[axis], visible: false };
      }
      put("pairs", pairs, { columns: ["texts of / adapter", ...bundle.tasks], rows: z.map((row, i) => [bundle.tasks[i], ...row]) },
        `${bundle.metrics[name].help} ${part()} ${bundle.known[name] ?? ""}`);

      const cells = range(T).flatMap((i) => range(T).map((j) => [i, j])).filter(([i, j]) => i !== j && (target === null || (i === target && j === source)));
      const of = (m) => (z3 ? mean(cells.map(([i, j]) => z3[m][i][j])) : null);
      const grid = bundle.kinds.map((_, kind) => bundle.layers.map((_, layer) => {
        const m = bundle.place.findIndex(([a, b]) => a === layer && b === kind);
        return m < 0 ? null : of(m);
      }));
      heat(map.data[0], grid, signed, 2);
      map.data[0].hovertemplate = "%{x}, %{y}<br>%{z:.3f}<extra></extra>";
      const [l, k] = [chosen.layer, chosen.kind];
      map.layout.shapes = l === null && k === null ? []
        : [frame(l === null ? -0.5 : l - 0.5, l === null ? bundle.layers.length - 0.5 : l + 0.5, k === null ? -0.5 : k - 0.5, k === null ? bundle.kinds.length - 0.5 : k + 0.5)];
      const pair = target === null ? "Mean over all pairs of different adapters." : `${bundle.tasks[source]} on ${bundle.tasks[target]}.`;
      put("map", map, { columns: ["module", ...bundle.layers.map((layer) => `layer ${layer}`)], rows: grid.map((row, i) => [bundle.kinds[i], ...row]) }, pair);
    };

    const drawError = (found) => {
      const figure = skeleton("error");
      const modules = selected();
      const at = (table) => bundle.tasks.map((_, i) => (table ? mean(modules.map((m) => table[m][i])) : null));
      const now = at(found.error);
      figure.data[0].x = now;
      figure.data[0].opacity = 1;
      figure.data[0].marker = { ...figure.data[0].marker, opacity: bundle.tasks.map((_, i) => (chosen.target === null || chosen.target === i ? 1 : 0.35)) };
      const pinned = pin?.error ? at(pin.error) : bundle.tasks.map(() => null);
      figure.data[1].x = pinned;
      figure.data[1].visible = Boolean(pin?.error);
      if (pin) figure.data[1].name = `pinned: ${pin.label}`;
      const gap = now.map((value, i) => (pin?.error && value !== null ? value - pinned[i] : null));
      put("error", figure, { columns: ["task", "error", "pinned", "difference"], rows: bundle.tasks.map((task, i) => [task, now[i], pinned[i], gap[i]]) },
        found.error ? part() : "Reading texts first: this figure needs their second moments.");
    };

    const drawMagnitude = (found) => {
      const figure = skeleton("magnitude");
      const T = bundle.tasks.length;
      const modules = selected();
      const above = find("[data-choice=above]").value;
      const grey = range(T).map((i) => {
        if (above === "full" && bundle.full) return quantiles(Float32Array.from(modules.flatMap((m) => bundle.full.values[m][i]), (value) => 10 ** value));
        return above === "pinned" && pin ? weighted(spread(pin.columns[i], modules), pin.w[i]) : spread(norms.trained[i], modules);
      });
      const now = range(T).map((i) => weighted(spread(found.columns[i], modules), found.w[i]));
      const label = { trained: "as trained", full: "full fine-tune", pinned: "pinned" }[above];
      range(T).forEach((i) => {
        figure.data[i].x = now[i];
        figure.data[i].opacity = chosen.source === null || [chosen.source, chosen.target].includes(i) ? 1 : 0.3;
        figure.data[T + i].x = grey[i];
        figure.data[T + i].name = `${bundle.tasks[i]}, ${label}`;
        figure.data[T + i].opacity = figure.data[i].opacity;
      });
      const rows = GRID.map((q, k) => [q, ...now.map((x) => x[k] ?? null), ...grey.map((x) => x[k] ?? null)]);
      put("magnitude", figure, { columns: ["quantile", ...bundle.tasks, ...bundle.tasks.map((task) => `${task}, ${label}`)], rows },
        `Colour: as it enters the merge; grey: ${label}. ${part()}`);
    };

    const marked = (figure) => {
      const places = selected();
      if (places.length === bundle.modules.length) return figure;
      figure.layout.shapes = places.map((m) => ({ type: "line", x0: m, x1: m, yref: "paper", y0: 0, y1: 1, line: { color: "var(--ms-accent)", width: 2, dash: "dot" } }));
      return figure;
    };

    const drawVariance = (found) => {
      const figure = skeleton("variance");
      const lines = [bundle.variance.trained, found.variance, bundle.variance.full];
      lines.forEach((line, i) => { figure.data[i].y = line ?? []; });
      if (!bundle.variance.full) figure.data.pop();
      const words = `Mean now ${mean(found.variance).toFixed(2)}, as trained ${mean(bundle.variance.trained).toFixed(2)}${bundle.variance.full ? `, full fine-tunes ${mean(bundle.variance.full).toFixed(2)}` : ""}.`;
      put("variance", marked(figure), { columns: ["module", ...figure.data.map((trace) => trace.name)], rows: bundle.modules.map((module, m) => [module, ...figure.data.map((trace) => trace.y[m])]) }, words);
    };

    const drawSigns = () => {
      const figure = skeleton("signs");
      [figure.data[0].y, figure.data[1].y] = [bundle.conflict, bundle.lost];
      put("signs", marked(figure), { columns: ["module", "conflict", "lost"], rows: bundle.modules.map((module, m) => [module, bundle.conflict[m], bundle.lost[m]]) });
    };

    const drawSpectra = () => {
      const figure = skeleton("spectra");
      const modules = selected();
      const T = bundle.tasks.length;
      const most = Math.max(...bundle.merge.values.map((line) => line.length), ...bundle.values.flat().map((line) => line.length));
      const steps = Math.min(64, most);
      const curves = range(T).map((i) => modules.map((m) => energies(bundle.values[m][i], steps)));
      curves.push(bundle.merge.values.length ? modules.map((m) => energies(bundle.merge.values[m], steps)) : []);
      const lines = curves.map((each) => range(steps).map((i) => mean(each.map((line) => line[i]))));
      lines.forEach((line, i) => {
        const trace = figure.data[i];
        const end = line.findIndex((value) => value > 0.99999);
        const shown = end < 0 ? steps : end + 1;
        trace.x = range(shown).map((place) => place + 1);
        trace.y = line.slice(0, shown);
        trace.opacity = chosen.source === null || i === T || [chosen.source, chosen.target].includes(i) ? 1 : 0.3;
      });
      const ranks = range(T).map((i) => mean(modules.map((m) => effectiveRank(bundle.values[m][i]))));
      const ofMerge = bundle.merge.values.length ? `; of the merge ${mean(modules.map((m) => effectiveRank(bundle.merge.values[m]))).toFixed(1)}` : "";
      const words = `Effective rank of the updates ${Math.min(...ranks).toFixed(1)} to ${Math.max(...ranks).toFixed(1)}${ofMerge} (Roy & Vetterli 2007).`;
      put("spectra", figure, { columns: ["rank", ...bundle.tasks, "the merge"], rows: range(steps).map((i) => [i + 1, ...lines.map((line) => line[i])]) }, `${words} ${part()}`);
    };

    /** Every measure of the selected cell, beside its averages. */
    const drawCell = (found) => {
      const { source, target } = chosen;
      const T = bundle.tasks.length;
      const every = range(bundle.modules.length);
      const modules = selected();
      const pairs = range(T).flatMap((i) => range(T).map((j) => [i, j])).filter(([i, j]) => i !== j);
      const pair = target === null ? pairs : [[target, source]];
      const rows = Object.entries(bundle.metrics).map(([name, { title }]) => {
        const z = metric(name, "entering", found.w, found.s);
        const at = (ms, cells) => (z ? mean(ms.flatMap((m) => cells.map(([i, j]) => z[m][i][j]))) : null);
        return [title, at(modules, pair), at(modules, pairs), at(every, pair), at(every, pairs)];
      });
      const text = (value) => (value === null ? "–" : typeof value === "number" ? value.toFixed(3) : value);
      const body = rows.map((row) => {
        const line = document.createElement("tr");
        line.append(...row.map((value, i) => Object.assign(document.createElement(i ? "td" : "th"), { textContent: text(value), scope: i ? "" : "row" })));
        return line;
      });
      find(".ms-cell tbody").replaceChildren(...body);
      const words = [target === null ? "all pairs" : `update of ${bundle.names[source]} on texts of ${bundle.names[target]}`,
        chosen.layer === null ? "all layers" : `layer ${bundle.layers[chosen.layer]}`, chosen.kind === null ? "all modules" : bundle.kinds[chosen.kind]];
      find(".ms-cell caption").textContent = `Selected: ${words.join(" · ")}`;
    };

    /** Draw everything, or what the sliders that have moved change. */
    const draw = (moved = null) => {
      if (!bundle) return;
      const began = performance.now();
      const loud = ["interference", "to_base"].includes(find("[data-choice=metric]").value);
      const all = !moved;
      const magnitudes = all || [...moved].some((name) => name !== "scaling");
      const sizes = all || [...moved].some((name) => name !== "decouple"); // what gamma does on data the server tells
      moving = !all;
      // asked once, before anything is drawn: between two figures the question would cost a layout
      seen = new Set(Object.keys(cards).filter((name) => inView(cards[name])));
      const found = compute(magnitudes);
      if (all || (loud && sizes)) drawPairs(found);
      if (sizes) drawError(found);
      if (magnitudes) {
        drawMagnitude(found);
        drawVariance(found);
      }
      if (all) {
        drawSigns();
        drawSpectra();
      }
      // the table follows the figures: it takes as long as one of them
      if (all) drawCell(found);
      else if (sizes) requestAnimationFrame(() => drawCell(found));
      element.dispatchEvent(new CustomEvent("ms-drawn", { detail: { milliseconds: performance.now() - began } }));
    };

    const soon = (name) => {
      const waiting = due.size > 0;
      due.add(name);
      if (waiting) return;
      requestAnimationFrame(() => {
        const moved = new Set(due);
        due.clear();
        draw(moved);
      });
    };

    const fillChoices = () => {
      const options = (select, names, all) => {
        const kept = select.value;
        select.replaceChildren(...(all ? [new Option(all, "")] : []), ...names.map(([value, text]) => new Option(text, value)));
        select.value = [...select.options].some((option) => option.value === kept) ? kept : select.options[0].value;
      };
      options(find("[data-choice=metric]"), Object.entries(bundle.metrics).map(([name, { title }]) => [name, title]));
      for (const name of ["source", "target"]) options(find(`[data-choice=${name}]`), bundle.names.map((task, i) => [i, task]), "all");
      options(find("[data-choice=layer]"), bundle.layers.map((layer, i) => [i, layer]), "all");
      options(find("[data-choice=kind]"), bundle.kinds.map((kind, i) => [i, kind]), "all");
      const full = find("[data-choice=above] option[value=full]");
      full.disabled = !bundle.full;
      if (full.selected && full.disabled) find("[data-choice=above]").selectedIndex = 0;
      offerPinned();
    };

    const offerPinned = () => {
      for (const option of element.querySelectorAll("option[value=pinned]")) option.disabled = !pin;
      for (const name of ["view", "above"]) {
        const select = find(`[data-choice=${name}]`);
        if (!pin && select.value === "pinned") select.selectedIndex = 0;
      }
      find("[data-do=unpin]").disabled = !pin;
    };

    const showChoice = () => {
      for (const name of Object.keys(chosen)) find(`[data-choice=${name}]`).value = chosen[name] ?? "";
      find("[data-do=clear]").disabled = Object.values(chosen).every((value) => value === null);
    };

    const select = (values) => {
      Object.assign(chosen, values);
      // a pair has two ends
      if ("source" in values && values.source === null) chosen.target = null;
      if ("target" in values && values.target === null) chosen.source = null;
      showChoice();
      say();
      draw();
    };

    /* What is chosen, for the page's address: names, which stay what they are when another merge is looked at. */
    const names = () => ({ source: bundle.names, target: bundle.names, layer: bundle.layers, kind: bundle.kinds });
    const say = (step = true) => {
      const values = Object.entries(names()).map(([name, known]) => [name, known[chosen[name]] ?? null]);
      for (const name of ["metric", "view", "above"]) {
        const { value, options } = find(`[data-choice=${name}]`);
        values.push([name, value === options[0].value || value === "pinned" ? null : value]);
      }
      window.mergescopeAddress.choose(Object.fromEntries(values.map(([name, value]) => [`diagnose.${name}`, value])), step);
    };
    let asked = null; // by the address, until there is something to choose from
    const take = () => {
      for (const [key, text] of Object.entries(asked ?? {})) {
        const name = key.slice("diagnose.".length);
        if (name in chosen) {
          const place = names()[name].indexOf(text);
          chosen[name] = place < 0 ? null : place;
          if (place < 0 && text !== null) window.mergescopeAddress.refuse(key, text);
        } else if (["metric", "view", "above"].includes(name)) {
          const choice = find(`[data-choice=${name}]`);
          const option = [...choice.options].find((one) => one.value === text && !one.disabled);
          choice.selectedIndex = option ? option.index : 0;
          if (!option && text !== null) window.mergescopeAddress.refuse(key, text);
        }
      }
      if ((chosen.source === null) !== (chosen.target === null) || chosen.source === chosen.target) chosen.source = chosen.target = null;
      asked = null;
      showChoice();
    };

    const pick = (name, { x, y, index }) => {
      if (name === "pairs") {
        const [source, target] = [bundle.tasks.indexOf(x), bundle.tasks.indexOf(y)];
        if (source !== target) select({ source, target });
      } else if (name === "map") {
        select({ layer: bundle.layers.findIndex((layer) => `layer ${layer}` === x), kind: bundle.kinds.indexOf(y) });
      } else if (name === "variance" || name === "signs") {
        const [layer, kind] = bundle.place[index];
        select({ layer, kind });
      }
    };

    const clear = () => select({ source: null, target: null, layer: null, kind: null });

    element.addEventListener("change", ({ target }) => {
      const name = target.dataset?.choice;
      if (!name || !bundle) return;
      if (!(name in chosen)) {
        say();
        return draw();
      }
      const value = target.value === "" ? null : Number(target.value);
      if (name === "source" && value !== null && chosen.target === null) return select({ source: value, target: value ? 0 : 1 });
      if (name === "target" && value !== null && chosen.source === null) return select({ target: value, source: value ? 0 : 1 });
      select({ [name]: value });
    });
    element.addEventListener("click", ({ target }) => {
      const action = target.dataset?.do;
      if (!action || !bundle) return;
      if (action === "clear") return clear();
      if (action === "unpin") pin = null;
      if (action === "pin") {
        const found = compute();
        const metrics = Object.fromEntries(Object.keys(bundle.metrics).map((name) => [name, metric(name, "entering", found.w, found.s)]));
        pin = { label: bundle.label.replace("{λ}", live.scaling), metrics, error: found.error, columns: found.columns, w: found.w };
      }
      offerPinned();
      draw();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && bundle && element.offsetParent !== null) clear();
    });
    // the sliders are Gradio's: what they say is read here at once, the server hears of it when they rest
    document.addEventListener("input", ({ target }) => {
      const block = target.closest?.("[id^=ms-diag-at-]");
      if (!block || !bundle || target.value === "") return;
      const name = block.id.slice("ms-diag-at-".length);
      const { min, max } = block.querySelector("input[type=range]"); // the number beside it takes any number until it is left
      live[name] = Math.min(Number(max), Math.max(Number(min), Number(target.value)));
      if (/^(scaling|weight_)/.test(name) || (name === "decouple" && bundle.follows_gamma)) soon(name); // the others are the server's
      if (name === "scaling") return;
      // the server merges again when the slider rests, so that it does not compete with the drawing
      settle();
    });

    const settle = () => {
      clearTimeout(settling);
      settling = setTimeout(() => document.querySelector("#ms-diag-settled").click(), REST);
    };
    const update = () => {
      if (!props.value) return;
      const news = JSON.parse(props.value);
      const other = !bundle || news.pool !== bundle.pool;
      bundle = news;
      if (other) {
        pin = null;
        Object.assign(chosen, { source: null, target: null, layer: null, kind: null });
      }
      if (news.fresh || other) {
        Object.assign(live, news.at);
      } else {
        // of two answers under way the older one may come last: the server is told once more what the sliders say
        const [wanted, got] = [live, news.at].map((at) => JSON.stringify(Object.keys(news.at).map((name) => name !== "scaling" && at[name])));
        if (wanted !== got && wanted !== repeated) settle();
        repeated = wanted === got ? "" : wanted;
      }
      const split = (text) => {
        const all = columnNorms(text);
        const width = all.length / news.tasks.length;
        return news.tasks.map((_, i) => all.subarray(i * width, (i + 1) * width));
      };
      norms = { trained: split(news.norms.trained), separated: split(news.norms.separated) };
      norms.alive = living(norms.separated, news.dead);
      fillChoices();
      take();
      say(false);
      draw();
    };
    update();
    watch("value", update);
    window.mergescopeAddress.listen("diagnose", (values) => {
      asked = values;
      if (!bundle) return;
      take();
      draw();
    });
  };
})();
