// A page that is served while its search runs. It reloads itself when records have changed, and restores the scroll
// position, open parts, choices and searches. It waits while an answer is open, a field is in use, or text is selected.
"use strict";
(() => {
  const EVERY = 2000, SETTLE = 2500, KEY = "merge-search";
  const version = document.getElementById("live").textContent;
  const before = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
  const kept = before.kept ?? {};
  sessionStorage.removeItem(KEY); // a page that the user reloads begins at its top
  if (before.theme) document.documentElement.dataset.theme = before.theme;
  report.kept = (key) => (kept[key] ??= {});

  const chip = document.createElement("button");
  chip.type = "button";
  chip.className = "live";
  chip.textContent = "live";
  chip.title = "this page updates itself when there are new results";
  chip.addEventListener("click", reload);
  document.body.append(chip);

  // Elements by section and place, without those of problems and matrix, whose scripts keep their own state.
  const found = (selector) => [...document.querySelectorAll("main > section")].flatMap((section) =>
    [...section.querySelectorAll(selector)].filter((each) => !each.closest(".problems, .matrix")).map((each, place) => [`${section.id} ${place}`, each]));
  const boxes = () => [...document.querySelectorAll("main > section")].flatMap((section) =>
    [...section.querySelectorAll(".scroll, .list, .grid")].map((each, place) => [`${section.id} ${place}`, each]));

  function place() {
    const sections = [...document.querySelectorAll("main > section")];
    const current = sections.findLast((each) => each.getBoundingClientRect().top <= 1);
    return current ? { section: current.id, below: -current.getBoundingClientRect().top } : { top: scrollY };
  }

  function reload() {
    const state = {
      kept, place: place(),
      open: found("details").filter(([, each]) => each.open).map(([key]) => key),
      fields: found("select, input").map(([key, each]) => [key, each.type === "checkbox" || each.type === "radio" ? each.checked : each.value]),
      sorted: found("th[aria-sort]").map(([, each]) => [each.closest("table").id, each.cellIndex, each.ariaSort]),
      boxes: boxes().map(([key, each]) => [key, each.scrollLeft, each.scrollTop]).filter(([, left, top]) => left || top),
      theme: document.documentElement.dataset.theme,
    };
    sessionStorage.setItem(KEY, JSON.stringify(state));
    location.reload();
  }

  // Parts are drawn one by one: each is restored once it is there, and the scroll position until the page has settled.
  function restore() {
    if (!before.place) return;
    const began = performance.now(), fields = new Map(before.fields), open = new Set(before.open), places = new Map(before.boxes.map(([key, ...at]) => [key, at]));
    let stays = true;
    for (const kind of ["wheel", "keydown", "pointerdown", "touchstart"]) addEventListener(kind, () => { stays = false; }, { once: true });
    for (const [key, each] of found("details")) each.open = open.has(key);
    for (const [id, column, direction] of before.sorted) {
      const heading = document.getElementById(id)?.tHead.rows[0].cells[column];
      for (let tries = 0; tries < 2 && heading && heading.ariaSort !== direction; tries++) heading.click();
    }
    const settle = () => {
      for (const [key, each] of found("select, input")) {
        if (!fields.has(key)) continue;
        const value = fields.get(key), property = typeof value === "boolean" ? "checked" : "value";
        fields.delete(key);
        if (each[property] === value) continue;
        each[property] = value;
        each.dispatchEvent(new Event("input", { bubbles: true }));
        each.dispatchEvent(new Event("change", { bubbles: true }));
      }
      for (const [key, each] of boxes()) {
        const at = places.get(key);
        if (at) [each.scrollLeft, each.scrollTop] = at;
        if (at && each.scrollLeft === at[0] && each.scrollTop === at[1]) places.delete(key);
      }
      const { section, below, top } = before.place, element = section && document.getElementById(section);
      if (stays) scrollTo(0, element ? element.getBoundingClientRect().top + scrollY + below : top ?? 0);
      if (stays && performance.now() - began < SETTLE) setTimeout(settle, 100);
    };
    settle();
  }

  const isBusy = () => document.querySelector("dialog[open]") || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "") || !getSelection().isCollapsed || document.hidden;

  async function look() {
    let now;
    try {
      const answer = await fetch("version", { cache: "no-store" });
      now = answer.ok ? await answer.text() : version;
      chip.textContent = "live";
    } catch {
      chip.textContent = "the server has stopped: this is the last that it showed";
      return setTimeout(look, EVERY);
    }
    if (now !== version && !isBusy()) return reload();
    if (now !== version) chip.textContent = "show new results";
    setTimeout(look, EVERY);
  }

  history.scrollRestoration = "manual";
  addEventListener("DOMContentLoaded", restore);
  setTimeout(look, EVERY);
})();
