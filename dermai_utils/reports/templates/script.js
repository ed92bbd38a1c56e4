"use strict";
// What the page can do beyond being read. Without a script it is whole: all that is hidden here
// stands in its tables.
(() => {
  const at = (selector, start = document) => start.querySelector(selector);
  document.documentElement.classList.add("js");

  const contents = at(".contents details");
  const narrow = matchMedia("(max-width: 77.99rem)");
  const fold = () => { contents.open = !narrow.matches; };
  fold();
  narrow.addEventListener("change", fold);
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a") && narrow.matches) contents.open = false;
  });

  const closed = () => document.querySelectorAll("main details:not([open]):not(.screen)");
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...closed()];
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));

  const tool = at("#threshold");
  if (tool) {
    const scores = JSON.parse(at("#scores").textContent);
    const field = (name) => at(`[name=${name}]`, tool);
    const percent = (share) => Number.isNaN(share) ? "not defined" : `${(100 * share).toFixed(1)} %`;
    const show = (name, text) => { at(`[data-shown=${name}]`, tool).textContent = text; };
    let data, thresholds;

    const rates = (threshold) => {
      let hits = 0, calls = 0, positives = 0;
      data.score.forEach((score, k) => {
        positives += data.positive[k];
        if (score >= threshold) { calls += 1; hits += data.positive[k]; }
      });
      const negatives = data.score.length - positives;
      return { hits, calls, positives, negatives, missed: positives - hits, alarms: calls - hits };
    };
    const update = () => {
      const threshold = thresholds[field("place").value], found = rates(threshold);
      const sensitivity = found.hits / found.positives;
      const specificity = 1 - found.alarms / found.negatives;
      const share = field("prevalence").valueAsNumber / 100;
      const valid = share >= 0 && share <= 1;
      const caught = sensitivity * share, wrongly = (1 - specificity) * (1 - share);
      const shown = threshold === Infinity ? "over 1: none is called" : threshold.toFixed(4);
      show("threshold", shown);
      field("place").setAttribute("aria-valuetext", `threshold ${shown}`);
      show("sensitivity", percent(sensitivity));
      show("specificity", percent(specificity));
      show("ppv", valid ? percent(caught / (caught + wrongly)) : "give 0 to 100 %");
      const count = (n) => n.toLocaleString("en");
      show("missed", `${count(found.missed)} of ${count(found.positives)}`);
      show("alarms", `${count(found.alarms)} of ${count(found.negatives)}`);
    };
    const go = (threshold) => {
      const place = thresholds.findIndex((each) => each >= threshold);
      field("place").value = place < 0 ? thresholds.length - 1 : place;
      update();
    };
    const choose = () => {
      data = scores[field("target").value];
      thresholds = [...new Set(data.score), Infinity];
      field("place").max = thresholds.length - 1;
      const { positives, negatives } = rates(0);
      field("prevalence").value = (100 * positives / (positives + negatives)).toFixed(2);
      tool.querySelectorAll("button").forEach((each) => {
        each.hidden = each.dataset.target !== field("target").value;
      });
      go(Number(at("button:not([hidden])", tool).dataset.threshold));
    };
    tool.addEventListener("input", (event) => (event.target.name === "target" ? choose : update)());
    tool.addEventListener("click", (event) => {
      if (event.target.dataset.threshold) go(Number(event.target.dataset.threshold));
    });
    tool.hidden = false;
    choose();
  }

  const filter = at("#filter");
  if (filter) {
    const cards = [...document.querySelectorAll(".cards li")];
    const update = () => {
      const wanted = ["truth", "called"].map((name) => [name, at(`[name=${name}]`, filter).value]);
      cards.forEach((card) => {
        card.hidden = wanted.some(([name, value]) => value && card.dataset[name] !== value);
      });
      const n = cards.filter((card) => !card.hidden).length;
      at("output", filter).textContent = `${n} of ${cards.length} shown`;
    };
    filter.addEventListener("input", update);
    filter.hidden = false;
    update();
  }
})();
