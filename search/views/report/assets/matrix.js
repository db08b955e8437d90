// The matrix: a row per problem, a column per model. Only the part that is in view is drawn, on a canvas.
//
// The mouse or the arrow keys choose a cell, and a line says what it holds; a click or Enter opens the answer.
"use strict";
(() => {
  const { h, plain, shown } = answers;
  const ROW = 17, WIDEST = 26, NARROWEST = 5, TALLEST = 620, STEP = 10, NAMED = 14;
  // A completion has no other status: a problem that cannot be scored, or a sandbox that fails, ends the scoring.
  const LEGEND = [["passed", "p"], ["failed", "f"], ["timeout", "t"], ["killed", "k"]];
  const COLOURS = { p: ["teal", 1], f: ["red", 0.3], t: ["orange", 0.75], k: ["purple", 0.75] };

  // For each problem of a split: how many of the models pass it, and how much they differ (0 if all agree).
  function tallies(problems, split) {
    const columns = problems.columns.filter((model) => problems.models[model].outcomes[split]);
    const rows = problems.splits[split].tasks.map((_, place) => {
      const rates = columns.map((model) => problems.rate(model, split, place)).filter((rate) => rate !== null);
      const mean = rates.reduce((sum, rate) => sum + rate, 0) / (rates.length || 1);
      return { place, models: rates.length, passing: rates.filter((rate) => rate === 1).length, mean, differ: mean * (1 - mean) };
    });
    rows.sort((one, other) => other.differ - one.differ || other.mean - one.mean || one.place - other.place);
    return { columns, rows };
  }

  function draw(element, problems) {
    const splits = Object.keys(problems.splits).filter((split) => problems.models.some((model) => model.outcomes[split]));
    const state = Object.assign(report.kept("matrix"), { split: splits[0], mode: "all", query: "", ...report.kept("matrix") });
    const winner = problems.first ?? problems.columns[0], winnerName = plain(problems.models[winner].name);
    const modes = {
      all: ["all", () => true],
      failures: [`failed by ${winnerName}`, (row) => (problems.rate(winner, state.split, row.place) ?? 1) < 1],
      different: ["models differ", (row) => row.differ > 0],
    };
    const known = new Map();
    let columns = [], rows = [], cursor = null, width = NARROWEST, labels = 0, top = 0;

    const canvas = h("canvas", { "aria-hidden": "true" }), spacer = h("div", {}, canvas);
    const box = h("div", { className: "grid", tabIndex: 0, role: "application", "aria-label": "Matrix of problems and models: arrow keys move, Enter opens the answer", "aria-describedby": "matrix-cell" }, spacer);
    const told = h("p", { id: "matrix-cell", className: "note cell", role: "status" });
    const tip = h("div", { className: "tip", hidden: true });
    const search = h("input", { type: "search", placeholder: "words of the id or the prompt, or /regex/", value: state.query, "aria-label": "search problems" });
    const buttons = h("div", { className: "modes", role: "group", "aria-label": "which problems" });
    const choice = h("select", { "aria-label": "split" }, ...splits.map((split) => h("option", { value: split, selected: split === state.split }, answers.called(split))));
    const swatch = ([name, sign]) => h("span", {}, h("i", { className: "swatch " + sign }), " " + name);
    const several = problems.models.some((model) => Math.max(...Object.values(model.samples)) > 1);
    const legend = h("p", { className: "note legend" }, ...LEGEND.filter(([, sign]) => problems.models.some((model) => Object.values(model.outcomes).some((found) => found.includes(sign)))).map(swatch), several ? h("span", {}, "several samples: the more of them pass, the stronger the colour") : null,
      h("span", {}, "above: the models, or the share that each passes; parents in blue"));
    element.querySelector(".matrix").replaceChildren(h("div", { className: "bar" }, splits.length > 1 ? choice : null, buttons, search), legend, box, told, tip);

    function fill() {
      if (!known.has(state.split)) known.set(state.split, tallies(problems, state.split));
      const all = known.get(state.split);
      columns = all.columns;
      let matches = () => true;
      try {
        matches = problems.matching(state.query);
        search.removeAttribute("aria-invalid");
      } catch {
        search.setAttribute("aria-invalid", "true");
      }
      buttons.replaceChildren(...Object.entries(modes).map(([mode, [label, holds]]) =>
        h("button", { type: "button", "aria-pressed": String(mode === state.mode), onclick: () => { state.mode = mode; fill(); buttons.querySelector("[aria-pressed=true]").focus(); } }, label, h("span", { className: "count" }, ` ${all.rows.filter(holds).length}`))));
      rows = all.rows.filter((row) => modes[state.mode][1](row) && matches(state.split, row.place));
      cursor = null;
      box.scrollTop = 0;
      tell();
      measure();
    }

    function measure() {
      const narrow = box.clientWidth < 600;
      labels = narrow ? 104 : 190;
      width = Math.max(NARROWEST, Math.min(WIDEST, Math.floor((box.clientWidth - labels) / columns.length)));
      top = width >= NAMED ? 74 : 44;
      box.style.height = Math.min(TALLEST, top + rows.length * ROW + 18) + "px";
      spacer.style.width = labels + columns.length * width + "px";
      spacer.style.height = top + rows.length * ROW + "px";
      paint();
    }

    let asked = false;
    function paint() {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; render(); });
    }

    function render() {
      const scale = devicePixelRatio || 1, wide = box.clientWidth, high = box.clientHeight;
      if (!wide) return;
      if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(high * scale)) {
        canvas.width = Math.round(wide * scale);
        canvas.height = Math.round(high * scale);
        canvas.style.width = wide + "px";
        canvas.style.height = high + "px";
      }
      const context = canvas.getContext("2d"), left = box.scrollLeft, above = box.scrollTop;
      const colours = Object.fromEntries(["page", "text", "soft", "line", "blue", "accent", "teal", "red", "orange", "purple"].map((name) => [name, report.colour(name)]));
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.clearRect(0, 0, wide, high);
      const firstRow = Math.floor(above / ROW), lastRow = Math.min(rows.length, Math.ceil((above + high) / ROW));
      const firstColumn = Math.floor(left / width), lastColumn = Math.min(columns.length, Math.ceil((left + wide - labels) / width));
      const x = (column) => labels + column * width - left, y = (row) => top + row * ROW - above;
      context.save();
      context.beginPath();
      context.rect(labels, top, wide, high);
      context.clip();
      for (let row = firstRow; row < lastRow; row++)
        for (let column = firstColumn; column < lastColumn; column++)
          cell(context, colours, problems.outcomes(columns[column], state.split, rows[row].place), x(column), y(row));
      context.restore();
      head(context, colours, firstColumn, lastColumn, x);
      names(context, colours, firstRow, lastRow, y, high);
      if (cursor) mark(context, colours, x(cursor.column), y(cursor.row));
      if (!rows.length) {
        context.fillStyle = colours.soft;
        context.fillText("no problem matches", labels + 8, top + 12);
      }
    }

    function cell(context, colours, found, left, high) {
      if (!found) return;
      const gap = width > 8 ? 1 : 0, passed = [...found].filter((sign) => sign === "p").length;
      const paintOne = (sign, share) => {
        const [name, alpha] = COLOURS[sign];
        context.globalAlpha = alpha * share;
        context.fillStyle = colours[name];
        context.fillRect(left, high, width - gap, ROW - 1);
      };
      if (passed < found.length) paintOne(passed ? "f" : found[0], 1);
      if (passed) paintOne("p", passed / found.length);
      context.globalAlpha = 1;
    }

    // Above each column: the model's name if there is room, or else a bar with the share that it passes.
    function head(context, colours, first, last, x) {
      const all = known.get(state.split);
      context.save();
      context.beginPath();
      context.rect(labels, 0, canvas.width, top);
      context.clip();
      context.font = "11px system-ui, sans-serif";
      context.textBaseline = "middle";
      for (let column = first; column < last; column++) {
        const model = problems.models[columns[column]], is = columns[column];
        context.fillStyle = model.kind === "trial" ? (is === winner ? colours.text : colours.soft) : colours.blue;
        if (width >= NAMED) {
          context.save();
          context.translate(x(column) + width / 2, top - 4);
          context.rotate(-Math.PI / 2);
          context.font = (is === winner ? "bold " : "") + "11px system-ui, sans-serif";
          context.fillText(fitted(context, plain(model.name), top - 8), 0, 0);
          context.restore();
        } else {
          all.scores ??= all.columns.map((each) => share(each));
          const tall = Math.max(1, all.scores[column] * (top - 16));
          context.fillRect(x(column), top - 2 - tall, Math.max(width - 1, 1), tall);
        }
      }
      context.restore();
    }

    function share(model) {
      const rates = problems.splits[state.split].tasks.map((_, place) => problems.rate(model, state.split, place)).filter((rate) => rate !== null);
      return rates.reduce((sum, rate) => sum + rate, 0) / (rates.length || 1);
    }

    function names(context, colours, first, last, y, high) {
      context.save();
      context.beginPath();
      context.rect(0, top, labels, high);
      context.clip();
      context.textBaseline = "middle";
      for (let row = first; row < last; row++) {
        const task = plain(problems.splits[state.split].tasks[rows[row].place]);
        context.font = (cursor?.row === row ? "bold " : "") + "11.5px system-ui, sans-serif";
        context.fillStyle = cursor?.row === row ? colours.text : colours.soft;
        context.fillText(fitted(context, task, labels - 10), 2, y(row) + ROW / 2);
      }
      context.restore();
    }

    // A text, cut in its middle so that it is at most `most` pixels wide.
    function fitted(context, text, most) {
      let shorter = text;
      for (let cut = text.length - 1; cut > 1 && context.measureText(shorter).width > most; cut--)
        shorter = text.slice(0, Math.ceil(cut / 2)) + "…" + text.slice(text.length - Math.floor(cut / 2));
      return shorter;
    }

    function mark(context, colours, left, high) {
      if (left < labels - width || high < top - ROW) return;
      context.strokeStyle = colours.text;
      context.lineWidth = 2;
      context.strokeRect(left, high, Math.max(width - 1, 4), ROW - 1);
    }

    const at = () => ({ place: rows[cursor.row].place, model: columns[cursor.column] });

    function said() {
      const { place, model } = at(), row = rows[cursor.row], [sample] = problems.written(model, state.split, place);
      const status = problems.status(model, state.split, place), detail = sample?.detail ? `: ${plain(sample.detail)}` : "";
      return [plain(problems.splits[state.split].tasks[place]), `${plain(problems.models[model].name)}: ${status}${detail}`,
        `${row.passing} of ${row.models} models pass it`];
    }

    function tell() {
      told.textContent = cursor ? said().join(" · ") : `${rows.length} problems, ${columns.length} models. Point at a cell, or use the arrow keys; a click or Enter opens the answer.`;
    }

    function cellAt(event) {
      const area = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - area.left - labels + box.scrollLeft) / width), row = Math.floor((event.clientY - area.top - top + box.scrollTop) / ROW);
      const inside = event.clientX - area.left >= labels && event.clientY - area.top >= top && columns[column] !== undefined && rows[row];
      return inside ? { row, column } : null;
    }

    function moveTo(found) {
      if (found?.row === cursor?.row && found?.column === cursor?.column) return;
      cursor = found;
      tell();
      paint();
    }

    function showTip(event) {
      tip.hidden = !cursor;
      if (!cursor) return;
      tip.replaceChildren(...said().map((line, number) => h(number ? "div" : "b", {}, line)));
      const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
      tip.style.left = Math.max(4, right ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14) + "px";
      tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
    }

    function openCell() {
      if (!cursor) return;
      const { place, model } = at();
      tip.hidden = true;
      answers.open(problems, model, state.split, place);
    }

    const MOVES = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], PageDown: [STEP, 0], PageUp: [-STEP, 0], Home: [0, -Infinity], End: [0, Infinity] };
    box.addEventListener("keydown", (event) => {
      if (!rows.length || !columns.length) return;
      if (event.key === "Enter" || event.key === " ") openCell();
      else if (MOVES[event.key]) {
        const [down, right] = MOVES[event.key], clamp = (value, most) => Math.max(0, Math.min(most, value));
        moveTo(cursor ? { row: clamp(cursor.row + down, rows.length - 1), column: clamp(cursor.column + right, columns.length - 1) } : { row: 0, column: 0 });
        reveal();
      } else return;
      event.preventDefault();
    });

    function reveal() {
      const left = cursor.column * width, high = cursor.row * ROW;
      box.scrollLeft = Math.max(left + width - (box.clientWidth - labels), Math.min(box.scrollLeft, left));
      box.scrollTop = Math.max(high + ROW - (box.clientHeight - top), Math.min(box.scrollTop, high));
    }

    canvas.addEventListener("pointermove", (event) => { moveTo(cellAt(event)); showTip(event); });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("click", (event) => { moveTo(cellAt(event)); openCell(); });
    box.addEventListener("scroll", () => { tip.hidden = true; paint(); });
    choice.addEventListener("change", () => { state.split = choice.value; fill(); });
    search.addEventListener("input", () => { state.query = search.value; fill(); });
    document.addEventListener("themechange", paint);
    new ResizeObserver(measure).observe(element);
    fill();
  }

  report.section("matrix", async (element) => draw(element, await answers.load()));
})();
