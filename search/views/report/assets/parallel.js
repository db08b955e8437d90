// Parallel coordinates: brushing chooses trials, which are named below; a select box keeps only the best.
"use strict";
report.section("parallel", async (element, data) => {
  const place = element.querySelector("#parallel-figure"), share = element.querySelector("#parallel-share");
  const chosen = element.querySelector("#parallel-chosen"), count = data.numbers.length, NAMED = 12;
  const sorted = [...data.scores].sort((one, other) => other - one), [lowest, highest] = [sorted[count - 1], sorted[0]];
  place.style.minWidth = Math.max(300, data.axes.length * 92) + "px";

  const within = (value, range) => (Array.isArray(range[0]) ? range : [range]).some(([low, high]) => value >= low && value <= high);
  function tell() {
    const axes = place.data?.[0].dimensions ?? data.axes;
    const brushed = axes.filter((axis) => axis.constraintrange?.length);
    const found = data.numbers.map((number, index) => [number, data.scores[index], index])
      .filter(([, , index]) => brushed.every((axis) => within(axis.values[index], axis.constraintrange))).reverse();
    const named = found.slice(0, NAMED).map(([number, score]) => `trial ${number} (${(score * 100).toFixed(1)}%)`).join(", ");
    chosen.textContent = `${found.length} of ${count} trials` + (found.length ? `: ${named}` : "") + (found.length > NAMED ? ", ..." : "");
  }

  async function draw() {
    const least = sorted[Math.max(0, Math.round(share.value * count) - 1)];
    const axes = data.axes.map((axis, index) => index || share.value === "1" ? { ...axis } : { ...axis, constraintrange: [least, highest] });
    const line = { color: data.scores, colorscale: data.colours, cmin: lowest, cmax: highest > lowest ? highest : lowest + 0.01, showscale: false };
    const font = { size: 11, color: report.palette.text };
    await report.figure(place, {
      data: [{ type: "parcoords", line, dimensions: axes, labelfont: font, tickfont: { ...font, size: 10 }, rangefont: { ...font, size: 10 }, labelangle: -12, unselected: { line: { color: report.palette.line, opacity: 0.15 } } }],
      layout: { margin: { t: 80, l: 60, r: 60, b: 30 }, uirevision: share.value }, // brushes outlast a change of colours
    });
    tell();
  }

  share.addEventListener("change", draw);
  await draw();
  place.on("plotly_restyle", tell);
});
