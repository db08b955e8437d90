// The parameters of a trial over the layers: one panel per parent, as many side by side as have room.
"use strict";
report.section("layers", async (element, data) => {
  const PANEL = 210, place = element.querySelector("#layers-figure");
  const chosen = element.querySelector("#layers-trial"), other = element.querySelector("#layers-other");
  const highest = Math.max(1, ...Object.values(data.trials).flat().flatMap((line) => [...line.values, ...line.outside]));
  const lowest = Math.min(0, ...Object.values(data.trials).flat().flatMap((line) => [...line.values, ...line.outside]));
  const depth = Math.max(...Object.values(data.trials).flat().map((line) => line.values.length));
  const ticks = data.hasLayers ? { tickvals: [...Array(depth).keys()].filter((layer) => layer % Math.ceil(depth / 6) === 0) } : {};
  const axis = (name, index) => name + (index ? index + 1 : "");

  // If there are knots instead of layers, their positions lie within [0, 1].
  const position = (index, count) => (data.hasLayers ? index : count > 1 ? index / (count - 1) : 0);

  function traces(number, dash) {
    const found = [];
    for (const line of data.trials[number] ?? []) {
      const panel = data.panels.findIndex((each) => each.model === line.model), count = line.values.length;
      const name = line.parameter + (line.tensors ? " (" + line.tensors + ")" : "");
      const step = data.hasLayers ? Math.max(1, count * 0.06) : 0.1;
      const common = {
        type: "scatter", xaxis: axis("x", panel), yaxis: axis("y", panel), name,
        hovertemplate: `trial ${number}, ${name} %{y:.3f}<extra></extra>`,
      };
      const colour = data.colours[line.parameter];
      found.push({
        ...common, x: line.values.map((_, index) => position(index, count)), y: line.values, mode: data.hasLayers && count > 12 ? "lines" : "lines+markers",
        line: { color: colour, width: 2, dash: line.tensors && dash === "solid" ? "dash" : dash }, marker: { size: 5, color: colour },
      });
      if (line.outside.length && data.hasLayers)
        found.push({ ...common, x: line.outside.map(() => -step), y: line.outside, mode: "markers",
          marker: { color: colour, symbol: dash === "solid" ? "diamond" : "diamond-open", size: 8 } });
    }
    return found;
  }

  function layout(columns, rows) {
    const found = { height: rows * PANEL + 50, margin: { t: 26, r: 10, l: 40, b: 40 }, annotations: [], showlegend: false };
    const gapX = 0.035, gapY = 46 / (rows * PANEL), width = (1 - gapX * (columns - 1)) / columns, height = (1 - gapY * (rows - 1)) / rows;
    data.panels.forEach((panel, index) => {
      const column = index % columns, row = Math.floor(index / columns), left = column * (width + gapX), top = 1 - row * (height + gapY);
      const isLast = index + columns >= data.panels.length;
      found[axis("xaxis", index)] = { domain: [left, left + width], anchor: axis("y", index), zeroline: false, ...ticks, title: isLast ? { text: data.hasLayers ? "layer" : "position", standoff: 4 } : undefined, rangemode: "normal" };
      found[axis("yaxis", index)] = { domain: [Math.max(0, top - height), top], anchor: axis("x", index), range: [lowest - 0.04 * (highest - lowest), highest + 0.04 * (highest - lowest)], zeroline: false };
      found.annotations.push({ text: report.plain(panel.name), x: left, y: top, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12 } });
    });
    return found;
  }

  function draw() {
    const columns = Math.max(1, Math.min(data.panels.length, 4, Math.floor(place.clientWidth / 250)));
    const rows = Math.ceil(data.panels.length / columns);
    const lines = [...traces(chosen.value, "solid"), ...(other.value ? traces(other.value, "dot") : [])];
    place.style.height = rows * PANEL + 50 + "px";
    return report.figure(place, { data: lines, layout: layout(columns, rows) });
  }

  if (data.winner && data.winner in data.trials) chosen.value = data.winner;
  for (const select of [chosen, other]) select.addEventListener("change", draw);
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - width) < 40) return;
    width = place.clientWidth;
    draw();
  }).observe(place);
  await draw();
});
