// The frame of the page: data, figures drawn when they come into view, light and dark.
//
// A section's script calls report.section("KEY", draw). draw(element, data) runs once: when the section comes near the
// window, before the page is printed, or else when the browser is idle. It draws figures with
// report.figure(element, {data, layout}).
"use strict";
const report = (() => {
  const draws = new Map(), figures = new Map(), known = new Map(), begun = new Set();
  const PRINTED = 700; // pixels that a printed page has room for
  const NARROW = 600, ENTRY = 19, AXIS = 70; // in a window narrower than NARROW, each entry of a legend has its own line, ENTRY pixels high
  let library = null, printing = false;

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return await new Response(stream).text();
  }

  // The data of a section, read once.
  function dataOf(key) {
    if (!known.has(key)) {
      const element = document.getElementById("data-" + key);
      const text = !element ? Promise.resolve("null")
        : "deflated" in element.dataset ? inflated(element.textContent) : Promise.resolve(element.textContent);
      known.set(key, text.then(JSON.parse));
    }
    return known.get(key);
  }

  function plotly() {
    library ??= inflated(document.getElementById("plotly").textContent).then((code) => {
      const script = document.createElement("script");
      script.textContent = code;
      document.head.append(script);
      return window.Plotly;
    });
    return library;
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  }

  // A figure in which each colour of the palette, which is light, is replaced by the page's, which may be dark.
  const palette = JSON.parse(document.getElementById("colours").textContent);
  const names = new Map(Object.entries(palette).map(([name, value]) => [value, name]));
  function painted(node) {
    if (typeof node === "string") return names.has(node) ? colour(names.get(node)) : node;
    if (Array.isArray(node)) return node.map(painted);
    if (node && typeof node === "object" && !ArrayBuffer.isView(node))
      return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, painted(value)]));
    return node;
  }

  function dressed(layout, narrow) {
    const plain = { ...layout, ...(printing ? { width: PRINTED } : {}) };
    plain.paper_bgcolor = plain.plot_bgcolor = "rgba(0,0,0,0)";
    plain.font = { family: "system-ui, sans-serif", size: 12, ...plain.font, color: colour("text") };
    plain.hoverlabel = { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("text") }, ...plain.hoverlabel };
    for (const key of Object.keys(plain).concat("xaxis", "yaxis"))
      if (/^[xy]axis\d*$/.test(key))
        plain[key] = {
          gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true,
          ...(narrow && plain[key]?.type === "date" ? { nticks: 3 } : {}), ...plain[key],
        };
    return painted(plain);
  }

  const isNarrow = (element) => !printing && element.clientWidth < NARROW;

  // On a phone the legend is a list below the figure, which grows by the list's height.
  function listed(element, data, layout) {
    const entries = data.filter((trace) => trace.name && trace.showlegend !== false).length;
    if (!isNarrow(element) || layout.legend?.orientation !== "h" || entries < 4) return layout;
    element.dataset.height ??= element.clientHeight;
    const height = Number(element.dataset.height), room = entries * ENTRY, plot = height - (layout.margin?.t ?? 20) - AXIS;
    element.style.height = height + room + "px";
    return { ...layout, height: height + room, legend: { ...layout.legend, y: -AXIS / plot }, margin: { ...layout.margin, b: room + AXIS } };
  }

  // Draw a figure, or draw it again with other content. Resolves when it is drawn.
  async function figure(element, { data, layout }) {
    figures.set(element, { data, layout });
    const Plotly = await plotly();
    await Plotly.react(element, painted(data), dressed(listed(element, data, layout), isNarrow(element)), { responsive: true, displaylogo: false });
    element.classList.add("drawn");
    performance.mark("drawn");
    return element;
  }

  // Text as a figure shows it: plotly takes some HTML in names and titles.
  function plain(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function section(key, draw) {
    draws.set(key, draw);
  }

  async function drawFigures(element, data) {
    for (const place of element.querySelectorAll("[data-figure]")) await figure(place, data.figures[place.dataset.figure]);
  }

  async function begin(element) {
    if (begun.has(element) || !document.getElementById("data-" + element.id)) return;
    begun.add(element);
    const draw = draws.get(element.id) ?? drawFigures;
    try {
      await draw(element, await dataOf(element.id));
    } catch (error) {
      console.error(error);
      const note = document.createElement("p");
      note.className = "error";
      note.textContent = "This part could not be drawn: " + error;
      element.append(note);
    }
  }

  function drawAgain() {
    for (const [element, given] of figures) figure(element, given);
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    document.getElementById("theme").textContent = theme === "dark" ? "light" : "dark";
    drawAgain();
    document.dispatchEvent(new Event("themechange"));
  }

  // Safari has no requestIdleCallback.
  const idle = () => new Promise((resolve) => (window.requestIdleCallback ?? setTimeout)(resolve));

  // Read what printing needs, because printing waits for no promise; then draw what nobody has scrolled to, so that a
  // picture of the whole page shows it. A live page leaves that out: it would redraw everything with each result.
  async function complete() {
    const sections = document.querySelectorAll("main > section");
    await idle();
    if (document.getElementById("plotly")) await plotly();
    for (const element of sections) await dataOf(element.id);
    document.documentElement.dataset.ready = "";
    if (document.getElementById("live")) return;
    for (const element of sections) {
      await idle();
      await begin(element);
    }
  }

  // Draw everything in the width of paper.
  function layOut() {
    printing = true;
    setTheme("light");
    for (const element of document.querySelectorAll("main > section")) begin(element);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
    const current = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    button.hidden = false;
    button.textContent = current() === "dark" ? "light" : "dark";
    button.addEventListener("click", () => setTheme(current() === "dark" ? "light" : "dark"));
    dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        near.unobserve(entry.target);
        begin(entry.target);
      }
    }, { rootMargin: "300px" });
    for (const element of document.querySelectorAll("main > section")) near.observe(element);
    let before = "light";
    addEventListener("beforeprint", () => {
      before = current();
      layOut();
    });
    addEventListener("afterprint", () => {
      printing = false;
      setTheme(before);
    });
    addEventListener("load", complete);
  });

  return { section, figure, plotly, plain, dataOf, inflated, colour, palette };
})();
