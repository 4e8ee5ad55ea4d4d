/* One figure of Mergescope: draws, redraws in place, and offers table, CSV and PNG. Called once per component. */
(() => {
  "use strict";
  const finger = matchMedia("(pointer: coarse)").matches;
  const CONFIG = {
    displayModeBar: finger ? false : "hover",
    responsive: false, // a ResizeObserver follows the card, not only the window
    displaylogo: false,
    showSendToCloud: false,
    modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };
  const NARROW = 420;

  // Where there is a <base>, Plotly names its clip paths by the page's whole address; when the address changes, the browser fetches the
  // page anew to look for them. This one says nothing that the address does not.
  const base = document.querySelector("base");
  if (base?.href === new URL("./", location.href).href) base.remove();

  /** Replace every "var(--name)" by the value that the current theme gives it. */
  const themed = (value, style) => {
    if (typeof value === "string") {
      return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
    }
    return value;
  };

  const save = (href, name) => {
    const link = document.createElement("a");
    link.href = href;
    link.download = name;
    link.click();
  };

  const csv = ({ columns, rows }) => {
    const cell = (value) => {
      const text = value === null ? "" : String(value);
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  };

  const show = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toFixed(4) : (value ?? "–"));

  const fill = (table, { columns, rows }) => {
    const head = document.createElement("tr");
    head.append(...columns.map((name) => Object.assign(document.createElement("th"), { textContent: name, scope: "col" })));
    const body = rows.map((row) => {
      const line = document.createElement("tr");
      line.append(...row.map((value) => Object.assign(document.createElement("td"), { textContent: show(value) })));
      return line;
    });
    table.replaceChildren(head, ...body);
  };

  /** Draw a trace's line and marker as they look in the figure, for the legend. */
  const swatch = (trace) => {
    const dashes = { dot: "2 3", dash: "6 4", dashdot: "6 3 2 3", longdash: "9 4", longdashdot: "9 4 2 4" };
    const { color, width = 2, dash } = trace.line ?? {};
    const mode = trace.mode ?? "lines";
    const symbol = trace.marker?.symbol ?? "circle";
    const fill = trace.marker?.color ?? color;
    if (trace.type === "bar") {
      const edge = trace.marker.line?.color ?? fill;
      const stripes = trace.marker.pattern ? `<path d="M4 11 10 1M10 11 16 1M16 11 22 1" stroke="${trace.marker.pattern.fgcolor}"/>` : "";
      return `<svg width="28" height="12" aria-hidden="true"><rect x="3" y="1" width="22" height="10" fill="${fill}" stroke="${edge}"/>${stripes}</svg>`;
    }
    const open = symbol.endsWith("-open");
    const paint = `fill="${open ? "none" : fill}" stroke="${fill}" stroke-width="1.5"`;
    const shape = symbol.startsWith("diamond") ? `<path d="M14 2 18 6 14 10 10 6Z" ${paint}/>`
      : symbol.startsWith("square") ? `<rect x="11" y="3" width="6" height="6" ${paint}/>`
      : `<circle cx="14" cy="6" r="${mode === "markers" ? 4.5 : 3}" ${paint}/>`;
    const line = `<path d="M1 6H27" stroke="${color}" stroke-width="${width}" stroke-dasharray="${dashes[dash] ?? ""}"/>`;
    return `<svg width="28" height="12" aria-hidden="true">${mode.includes("lines") ? line : ""}${mode.includes("markers") ? shape : ""}</svg>`;
  };

  window.mergescopePlot = (element, props, watch) => {
    const plotly = window.Plotly; // keep it: a gr.Plot elsewhere would replace window.Plotly
    const find = (selector) => element.querySelector(selector);
    const plot = find(".ms-plot");
    const details = find("details");
    const legend = find(".ms-legend");
    const caption = find("figcaption");
    const frame = find("figure");
    const hidden = new Set();
    const large = () => frame.classList.contains("ms-large");
    let current = null;
    let listening = false;

    const figure = () => {
      const style = getComputedStyle(document.body);
      const { data, layout } = themed(current.figure, style);
      layout.font.family = getComputedStyle(element).fontFamily;
      layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: layout.font.color };
      if (large()) layout.height = Math.max(layout.height, innerHeight - (plot.getBoundingClientRect().top + 24));
      // a finger on the figure scrolls the page
      layout.dragmode = finger ? false : "zoom";
      if (plot.clientWidth < NARROW && layout.xaxis) {
        layout.xaxis.nticks = 5;
        if (layout.xaxis.dtick < 1) layout.xaxis.dtick *= 2;
      }
      // numbers that would touch are left to the table
      for (const trace of data) if (trace.texttemplate && plot.clientWidth < 36 * trace.x.length) trace.texttemplate = "";
      for (const trace of data) if (hidden.has(trace.name)) trace.visible = "legendonly";
      return { data, layout };
    };

    // Plotly's own legend breaks lines badly in a narrow card; this one wraps as text does
    const explain = (data) => {
      const named = data.filter((trace) => trace.name && trace.showlegend !== false && trace.visible !== false);
      const names = named.map((trace) => trace.name);
      while (legend.children.length > names.length) legend.lastChild.remove();
      while (legend.children.length < names.length) {
        legend.append(Object.assign(document.createElement("button"), { type: "button" }));
      }
      named.forEach((trace, place) => {
        const button = legend.children[place];
        button.innerHTML = swatch(trace);
        button.append(new DOMParser().parseFromString(trace.name, "text/html").body.textContent);
        button.dataset.trace = trace.name;
        button.setAttribute("aria-pressed", String(!hidden.has(trace.name)));
      });
    };

    const draw = () => {
      const { data, layout } = figure();
      const height = `${layout.height}px`;
      if (plot.style.height !== height) plot.style.height = height;
      if (layout.showlegend) explain(data);
      if (!plot.clientWidth) return; // on a tab that is not shown; the observer below draws it when it is
      plotly.react(plot, data, { ...layout, showlegend: false, width: plot.clientWidth }, CONFIG);
      if (!listening) {
        listening = true;
        plot.on("plotly_click", ({ points: [{ x, y, pointIndex }] }) => {
          element.dispatchEvent(new CustomEvent("ms-pick", { detail: { x, y, index: pointIndex } }));
        });
      }
    };

    const update = () => {
      if (!props.value) return;
      current = typeof props.value === "string" ? JSON.parse(props.value) : props.value;
      if (caption.textContent !== current.caption) { // an idle change costs a layout
        caption.textContent = current.caption;
        window.mergescopeWords?.mark(caption); // a report that was saved has no glossary
      }
      frame.toggleAttribute("data-empty", !current.figure.data.length); // nothing to save
      if (details.open) fill(find("table"), current.table);
      draw();
    };

    const png = async () => {
      const { data, layout } = figure();
      const card = getComputedStyle(document.body).getPropertyValue("--ms-card").trim();
      const size = { width: Math.max(plot.clientWidth, 640), height: layout.height + (layout.showlegend ? 110 : 50) };
      const framed = {
        ...layout,
        ...size,
        font: { ...layout.font, family: "system-ui, sans-serif" }, // an image cannot reach the page's web fonts
        title: { text: find("h2").textContent, x: 0.02, y: 0.97, yanchor: "top", font: { size: 16 } },
        legend: { ...layout.legend, y: -0.22, yanchor: "top" },
        margin: { ...layout.margin, t: 46 },
        paper_bgcolor: card,
      };
      return plotly.toImage({ data, layout: framed }, { format: "png", scale: 2, ...size });
    };

    /** Give the figure the whole page, or its place back. */
    const enlarge = (yes, focused = find("[data-large]")) => {
      frame.classList.toggle("ms-large", yes);
      find("[data-large]").setAttribute("aria-pressed", String(yes));
      focused.focus();
      draw();
    };
    frame.addEventListener("focusout", ({ relatedTarget: next }) => large() && next && !frame.contains(next) && enlarge(false, next));
    frame.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !large()) return;
      event.stopPropagation(); // it is for this alone, not for a selection or a lesson
      enlarge(false);
    });

    details.addEventListener("toggle", () => details.open && current && fill(find("table"), current.table));
    element.addEventListener("click", async (event) => {
      const trace = event.target.closest?.("[data-trace]")?.dataset.trace;
      if (trace !== undefined) {
        if (!hidden.delete(trace)) hidden.add(trace);
        return draw();
      }
      if (event.target.closest?.("[data-large]")) return enlarge(!large());
      const kind = event.target.dataset?.save;
      if (!kind || !current) return;
      if (kind === "png") return save(await png(), `${current.filename}.png`);
      const address = URL.createObjectURL(new Blob([csv(current.table)], { type: "text/csv" }));
      save(address, `${current.filename}.csv`);
      URL.revokeObjectURL(address);
    });

    update();
    watch("value", update);
    let width = plot.clientWidth;
    new ResizeObserver(() => {
      if (!current || Math.abs(plot.clientWidth - width) < 2) return;
      width = plot.clientWidth;
      if (width) draw();
    }).observe(plot);
    new MutationObserver(() => current && draw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };
})();
