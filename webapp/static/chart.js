// Draws predictions (bars) and accuracy (line) by day, and the first day of each model version.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, DAYS, DAY_MS] = [360, 90, 60, 86_400_000];

// versions: as in /api/stats. The latest 60 days are shown.
export function drawChart(svg, versions) {
  // A version whose predictions are all newer than the last count has no days.
  const dates = versions.flatMap(({ since, days }) => [since, ...days.map(({ day }) => day)]);
  const lastDay = Math.max(...dates.map((date) => Date.parse(date)));
  const x = (day) => WIDTH * (1 - (lastDay - Date.parse(day) + DAY_MS) / (DAYS * DAY_MS));
  const shown = versions.map((version) => ({
    ...version,
    days: version.days.filter(({ day }) => x(day) >= 0),
  }));
  const most = Math.max(1, ...shown.flatMap(({ days }) => days.map(({ predictions }) => predictions)));
  svg.replaceChildren(...shown.flatMap((version) => drawVersion(version, x, most)));
  svg.toggleAttribute("hidden", svg.childElementCount === 0);
}

function drawVersion({ model_version: name, since, days }, x, most) {
  const step = WIDTH / DAYS;
  const parts = days.map(({ day, predictions }) => {
    const height = (HEIGHT * predictions) / most;
    const box = { x: x(day), y: HEIGHT - height, width: step - 1, height };
    return create("rect", box, `${day}: ${predictions} predictions by model ${name}`);
  });
  const labelled = days.filter((day) => day.labelled);
  const points = labelled.map(({ day, labelled, right }) => [x(day) + step / 2, HEIGHT * (1 - right / labelled)]);
  parts.push(create("polyline", { points: points.join(" ") }));
  labelled.forEach(({ day, labelled, right }, i) => {
    const circle = { cx: points[i][0], cy: points[i][1], r: 2.5 };
    parts.push(create("circle", circle, `${day}: ${right} of ${labelled} labels agree with model ${name}`));
  });
  if (x(since) >= 0) {
    const line = { x1: x(since), x2: x(since), y1: 0, y2: HEIGHT };
    parts.push(create("line", line, `Model ${name} since ${since}`));
  }
  return parts;
}

function create(tag, attributes, title = "") {
  const part = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  if (title) part.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: title }));
  return part;
}
