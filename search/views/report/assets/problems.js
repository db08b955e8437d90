// Problems and answers: what two models wrote, problem by problem, as a diff by lines.
//
// Whatever a model wrote enters the page as text only (textContent). Characters that do not print, or that change the
// order of a line, are shown as escapes.
"use strict";
const answers = (() => {
  const UNPRINTED = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
  const MOST_LISTED = 200;

  // h("p", {className: "note"}, "text", element, ...)
  function h(name, properties = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties))
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function escaped(sign) {
    const code = sign.codePointAt(0), hex = code.toString(16);
    return code < 256 ? "\\x" + hex.padStart(2, "0") : code < 65536 ? "\\u" + hex.padStart(4, "0") : "\\U" + hex.padStart(8, "0");
  }

  const called = (split) => split === "confirm" ? "confirmation" : `${split} split`;
  const plain = (text) => text.replace(UNPRINTED, escaped);

  // A text as nodes, in which characters that do not print are marked.
  function shown(text) {
    const nodes = [];
    let end = 0;
    for (const found of text.matchAll(UNPRINTED)) {
      nodes.push(text.slice(end, found.index), h("span", { className: "unprinted", title: "a character that does not print" }, escaped(found[0])));
      end = found.index + found[0].length;
    }
    return [...nodes, text.slice(end)];
  }

  // The lines of two texts as [sign, line]: "-" only in the first, "+" only in the second, " " in both.
  function difference(one, other) {
    const [a, b] = [one, other].map((text) => text.replace(/\n$/, "").split("\n"));
    let begin = 0, end = 0;
    while (begin < Math.min(a.length, b.length) && a[begin] === b[begin]) begin++;
    while (end < Math.min(a.length, b.length) - begin && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
    const x = a.slice(begin, a.length - end), y = b.slice(begin, b.length - end), width = y.length + 1;
    const common = new Uint16Array((x.length + 1) * width); // the longest common subsequence of the rest
    for (let i = x.length - 1; i >= 0; i--)
      for (let j = y.length - 1; j >= 0; j--)
        common[i * width + j] = x[i] === y[j] ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    const lines = a.slice(0, begin).map((line) => [" ", line]);
    for (let i = 0, j = 0; i < x.length || j < y.length;)
      if (i < x.length && j < y.length && x[i] === y[j]) lines.push([" ", x[i++], j++]);
      else if (j === y.length || (i < x.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) lines.push(["-", x[i++]]);
      else lines.push(["+", y[j++]]);
    return [...lines, ...a.slice(a.length - end).map((line) => [" ", line])];
  }

  class Problems {
    constructor(data) {
      Object.assign(this, data);
      this.searched = new Map();
    }

    // The outcomes of a model on a problem, one character per sample; "" if it has none.
    outcomes(model, split, place) {
      const { outcomes, samples } = this.models[model], count = samples[split];
      const found = outcomes[split]?.slice(place * count, (place + 1) * count) ?? "";
      return found.includes("-") ? "" : found;
    }

    // The share of a model's samples of a problem that passed; null without outcomes.
    rate(model, split, place) {
      const found = this.outcomes(model, split, place);
      return found ? [...found].filter((sign) => sign === "p").length / found.length : null;
    }

    status(model, split, place) {
      const found = this.outcomes(model, split, place);
      if (!found) return "no outcome";
      if (found.length === 1) return this.statuses[found];
      return `${[...found].filter((sign) => sign === "p").length} of ${found.length} samples passed`;
    }

    // What a model wrote, as far as the page has it: [{sample, status, text, detail, cut}].
    written(model, split, place) {
      const flat = this.models[model].answers[split]?.[place] ?? [], found = this.outcomes(model, split, place);
      const samples = [];
      for (let i = 0; i < flat.length; i += 3)
        samples.push({
          sample: flat[i], status: this.statuses[found[flat[i]]] ?? "", text: this.texts[flat[i + 1]], detail: this.texts[flat[i + 2]],
          cut: this.cut[flat[i + 1]],
        });
      return samples;
    }

    prompt(split, place) {
      const number = this.splits[split].prompts[place];
      return number < 0 ? null : this.texts[number];
    }

    // A function that says whether a problem matches: all words, or /a regular expression/; throws SyntaxError.
    matching(query) {
      const pattern = /^\/(.+)\/$/.exec(query.trim());
      if (pattern) {
        const expression = new RegExp(pattern[1], "i");
        return (split, place) => expression.test(this.searchable(split, place));
      }
      const words = query.toLowerCase().split(/\s+/).filter(Boolean);
      return (split, place) => words.every((word) => this.searchable(split, place).includes(word));
    }

    searchable(split, place) {
      const key = split + place;
      if (!this.searched.has(key))
        this.searched.set(key, (this.splits[split].tasks[place] + "\n" + (this.prompt(split, place) ?? "")).toLowerCase());
      return this.searched.get(key);
    }

    // The split on which two models are compared: the report split, if both have outcomes there.
    common(first, second) {
      const both = Object.keys(this.splits).filter((split) => [first, second].every((model) => this.models[model].outcomes[split]));
      return both.includes("report") ? "report" : both[0];
    }

    command(first, second) {
      return `merge-search compare ${this.models[first].word} ${this.models[second].word} --html compare.html`;
    }
  }

  function code(text, cut) {
    const note = cut ? h("p", { className: "note" }, `cut: it has ${cut.toLocaleString("en")} characters, and the first ${text.length.toLocaleString("en")} are shown`) : null;
    return [text ? h("pre", { className: "code", dir: "ltr" }, ...shown(text)) : h("p", { className: "note" }, "nothing was written"), note];
  }

  function diff(one, other) {
    const found = difference(one.text, other.text), differ = found.some(([sign]) => sign !== " ");
    const lines = found.map(([sign, line]) =>
      h({ "-": "del", "+": "ins", " ": "span" }[sign], { className: "line" }, ...shown(line + "\n")));
    const notes = [one, other].filter((each) => each.cut).map((each) =>
      h("p", { className: "note" }, `cut: one has ${each.cut.toLocaleString("en")} characters, and the first ${each.text.length.toLocaleString("en")} are compared`));
    if (!differ) notes.push(h("p", { className: "note" }, "One ends with a newline, and the other does not."));
    return [h("pre", { className: "code diff", dir: "ltr" }, ...lines), ...notes];
  }

  // A line with a model, its status and its error.
  function verdict(problems, model, split, place, chosen, sign = "") {
    const status = problems.status(model, split, place), passed = problems.rate(model, split, place);
    return h("p", { className: "outcome" },
      sign ? h("span", { className: sign === "+" ? "sign added" : "sign removed", "aria-hidden": "true" }, sign) : null,
      h("b", {}, plain(problems.models[model].name)), " ",
      h("span", { className: passed === 1 ? "status passed" : passed === null ? "status" : "status failed" }, status),
      chosen && problems.outcomes(model, split, place).length > 1 ? ` (sample ${chosen.sample + 1} is shown: ${chosen.status})` : "",
      chosen?.detail ? h("span", { className: "detail" }, " ", ...shown(chosen.detail)) : null);
  }

  function prompt(problems, split, place, open) {
    const text = problems.prompt(split, place);
    return text === null ? null : h("details", { open, className: "prompt" }, h("summary", {}, "prompt"), ...code(text, problems.cut[problems.splits[split].prompts[place]]));
  }

  // Which sample of each model to show: one that passed beside one that did not, if the models differ.
  function pair(problems, first, second, split, place) {
    const samples = [first, second].map((model) => problems.written(model, split, place));
    const better = Math.sign(problems.rate(first, split, place) - problems.rate(second, split, place));
    const pick = (own, wanted) => own.find((each) => wanted !== 0 && (each.status === "passed") === wanted > 0) ?? own[0];
    return [pick(samples[0], better), pick(samples[1], -better)];
  }

  // What two models wrote for a problem: the second one's lines are "-", the first one's "+".
  function both(problems, first, second, split, place) {
    const [mine, theirs] = pair(problems, first, second, split, place), parts = [];
    parts.push(prompt(problems, split, place, true), verdict(problems, second, split, place, theirs, "−"), verdict(problems, first, split, place, mine, "+"));
    if (mine && theirs) return mine.text === theirs.text
      ? [...parts, h("p", { className: "note" }, mine.cut || theirs.cut ? "The shown parts of both are the same:" : "Both wrote the same text:"), ...code(mine.text, mine.cut)]
      : [...parts, ...diff(theirs, mine)];
    for (const [model, found] of [[second, theirs], [first, mine]])
      parts.push(...(found ? code(found.text, found.cut) : [absent(problems, model, split, first, second)]));
    return parts;
  }

  function absent(problems, model, split, first, second) {
    const name = plain(problems.models[model].name), why = problems.models[model].missing[split];
    if (why) return h("p", { className: "note" }, `What ${name} wrote is not here: `, ...shown(why), ".");
    if (first === second || !problems.models[first].word || !problems.models[second].word)
      return h("p", { className: "note" }, `What ${name} wrote is not in this page.`);
    return h("p", { className: "note" }, `What ${name} wrote is left out of this page, to keep it small. This command shows it, if it was kept: `, h("code", {}, problems.command(first, second)));
  }

  // What one model wrote for a problem, and how that differs from what another wrote.
  function one(problems, model, other, split, place) {
    const written = problems.written(model, split, place);
    const parts = [prompt(problems, split, place, true)];
    if (!written.length) parts.push(verdict(problems, model, split, place), problems.outcomes(model, split, place) ? absent(problems, model, split, model, other ?? model) : null);
    for (const sample of written) parts.push(verdict(problems, model, split, place, sample), ...code(sample.text, sample.cut));
    const left = problems.outcomes(model, split, place).length - written.length;
    if (written.length && left > 0) parts.push(h("p", { className: "note" }, `${left} further samples are left out`));
    if (other !== null && other !== model && problems.outcomes(other, split, place)) {
      parts.push(h("h3", {}, `Against ${plain(problems.models[other].name)}`), ...both(problems, model, other, split, place).slice(1));
    }
    return parts;
  }

  let dialog = null;

  function open(problems, model, split, place) {
    dialog ??= document.body.appendChild(h("dialog", { className: "answer", "aria-label": "an answer" }));
    const close = h("button", { type: "button", onclick: () => dialog.close() }, "close");
    const title = h("h2", {}, ...shown(problems.splits[split].tasks[place]), ", ", ...shown(problems.models[model].name));
    dialog.replaceChildren(h("div", { className: "top" }, title, close), ...one(problems, model, problems.second, split, place).filter(Boolean));
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  dialogCloses();
  function dialogCloses() {
    document.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
  }

  let loaded = null;
  const load = () => (loaded ??= report.dataOf("problems").then((data) => new Problems(data)));

  const MODES = {
    won: (mine, theirs) => mine > theirs,
    lost: (mine, theirs) => mine < theirs,
    "both pass": (mine, theirs) => mine === theirs && mine === 1,
    "neither passes": (mine, theirs) => mine === theirs && mine < 1,
  };

  function select(problems, chosen, label, change) {
    const options = problems.columns.map((model) => h("option", { value: model, selected: model === chosen }, plain(problems.models[model].name)));
    const element = h("select", { onchange: () => change(Number(element.value)) }, ...options);
    return h("label", {}, label + " ", element);
  }

  // The list of problems on which two models are compared.
  function draw(element, problems) {
    const state = Object.assign(report.kept("problems"), { mode: "won", query: "", open: [], ...report.kept("problems") });
    state.first ??= problems.first ?? problems.columns.find((model) => model !== problems.second);
    state.second ??= problems.second ?? problems.columns.find((model) => model !== state.first);
    const box = element.querySelector(".problems");
    if (state.first === undefined || state.second === undefined) return;
    const bar = h("div", { className: "bar" }), modes = h("div", { className: "modes", role: "group", "aria-label": "which problems" });
    const list = h("div", { className: "list" }), count = h("p", { className: "note", role: "status" });
    const search = h("input", { type: "search", placeholder: "words of the id or the prompt, or /regex/", value: state.query, "aria-label": "search problems" });
    search.addEventListener("input", () => { state.query = search.value; fill(); });
    if (problems.models.length > 2) bar.append(
      select(problems, state.first, "model", (model) => { state.first = model; fill(); }),
      select(problems, state.second, "against", (model) => { state.second = model; fill(); }));
    bar.append(modes, search);
    box.replaceChildren(bar, count, list);
    for (const note of problems.notes) box.append(h("p", { className: "note" }, ...shown(note)));

    function item(split, place) {
      const { first, second } = state, task = problems.splits[split].tasks[place];
      const body = h("div", { className: "body" });
      const item = h("details", {},
        h("summary", {}, h("b", {}, ...shown(task)), h("span", { className: "note" },
          ` ${plain(problems.models[second].name)}: ${problems.status(second, split, place)} → ${plain(problems.models[first].name)}: ${problems.status(first, split, place)}`)),
        body);
      item.addEventListener("toggle", () => {
        state.open = state.open.filter((each) => each !== task).concat(item.open ? [task] : []);
        if (item.open && !body.hasChildNodes()) body.append(...both(problems, first, second, split, place).filter(Boolean));
      });
      item.open = state.open.includes(task);
      return item;
    }

    function fill() {
      const split = problems.common(state.first, state.second);
      list.replaceChildren();
      modes.replaceChildren();
      if (split === undefined) return count.replaceChildren("These two have no problem in common.");
      const places = problems.splits[split].tasks.map((_, place) => place).filter((place) => [state.first, state.second].every((model) => problems.outcomes(model, split, place)));
      const rates = (place) => [problems.rate(state.first, split, place), problems.rate(state.second, split, place)];
      for (const [mode, holds] of Object.entries(MODES)) {
        const found = places.filter((place) => holds(...rates(place)));
        modes.append(h("button", { type: "button", "aria-pressed": String(mode === state.mode), onclick: () => { state.mode = mode; fill(); modes.querySelector("[aria-pressed=true]").focus(); } }, mode, h("span", { className: "count" }, ` ${found.length}`)));
      }
      let matches = () => true;
      try {
        matches = problems.matching(state.query);
        search.removeAttribute("aria-invalid");
      } catch {
        search.setAttribute("aria-invalid", "true");
      }
      const found = places.filter((place) => MODES[state.mode](...rates(place)) && matches(split, place));
      count.replaceChildren(`${found.length} of the ${places.length} problems${split ? ` of the ${called(split)}` : ""}`);
      list.append(...found.slice(0, MOST_LISTED).map((place) => item(split, place)));
      if (found.length > MOST_LISTED) list.append(h("button", { type: "button", onclick: (event) => event.target.replaceWith(...found.slice(MOST_LISTED).map((place) => item(split, place))) }, `show ${found.length - MOST_LISTED} more`));
    }
    fill();
  }

  report.kept ??= () => ({});
  report.section("problems", async (element) => draw(element, await load()));
  return { load, h, shown, plain, open, called };
})();
