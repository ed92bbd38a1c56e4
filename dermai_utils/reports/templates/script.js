"use strict";
// Without this script the page is whole: its tables hold all that is hidden here.
(() => {
  const at = (selector, start = document) => start.querySelector(selector);
  const all = (selector, start = document) => [...start.querySelectorAll(selector)];

  const contents = at(".contents details");
  contents.addEventListener("click", (event) => { if (event.target.closest("a")) contents.open = false; });

  const tool = at("#threshold");
  const scores = JSON.parse(at("#scores").textContent);
  const field = (name) => at(`[name=${name}]`, tool);
  const percent = (share) => Number.isNaN(share) ? "not defined" : `${(100 * share).toFixed(1)} %`;
  const count = (n) => n.toLocaleString("en");
  let data, thresholds;

  const update = () => {
    const threshold = thresholds[field("place").value];
    let missed = 0, alarms = 0;
    data.score.forEach((score, k) => {
      missed += data.positive[k] && score < threshold;
      alarms += !data.positive[k] && score >= threshold;
    });
    const sensitivity = 1 - missed / data.positives, specificity = 1 - alarms / data.negatives;
    const share = field("prevalence").valueAsNumber / 100, caught = sensitivity * share;
    const shown = {
      threshold: threshold === Infinity ? "over 1: none is called" : threshold.toFixed(4),
      sensitivity: percent(sensitivity),
      specificity: percent(specificity),
      ppv: share >= 0 && share <= 1 ? percent(caught / (caught + (1 - specificity) * (1 - share))) : "give 0 to 100 %",
      missed: `${count(missed)} of ${count(data.positives)}`,
      alarms: `${count(alarms)} of ${count(data.negatives)}`,
    };
    for (const [name, text] of Object.entries(shown)) at(`[data-shown=${name}]`, tool).textContent = text;
    field("place").setAttribute("aria-valuetext", `threshold ${shown.threshold}`);
  };
  const go = (threshold) => {
    const place = thresholds.findIndex((each) => each >= threshold);
    field("place").value = place < 0 ? thresholds.length - 1 : place;
    update();
  };
  const choose = () => {
    const target = field("target").value, buttons = all("button", tool);
    data = scores[target];
    data.positives = data.positive.reduce((a, b) => a + b, 0);
    data.negatives = data.score.length - data.positives;
    thresholds = [...new Set(data.score), Infinity];
    field("place").max = thresholds.length - 1;
    field("prevalence").value = (100 * data.positives / data.score.length).toFixed(2);
    buttons.forEach((each) => { each.hidden = each.dataset.target !== target; });
    go(Number(buttons.find((each) => !each.hidden)?.dataset.threshold ?? Infinity));
  };
  tool.addEventListener("input", (event) => (event.target.name === "target" ? choose : update)());
  tool.addEventListener("click", ({ target }) => target.dataset.threshold && go(Number(target.dataset.threshold)));
  tool.hidden = false;
  choose();

  const filter = at("#filter"), cards = all(".cards li");
  filter?.addEventListener("input", () => {
    const wanted = ["truth", "called"].map((name) => [name, at(`[name=${name}]`, filter).value]);
    cards.forEach((card) => { card.hidden = wanted.some(([name, value]) => value && card.dataset[name] !== value); });
    at("output", filter).textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} shown`;
  });
  if (filter) filter.hidden = false;
})();
