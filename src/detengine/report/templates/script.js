"use strict";
// Values where a chart is pointed at; the chapter that is read; everything unfolded for printing.
for (const svg of document.querySelectorAll("svg.chart[data-axis]")) {
  const [low, high, start, end] = svg.dataset.axis.split(" ").map(Number);
  const lines = [...svg.querySelectorAll("[data-y]")].map((path) => {
    const x = path.dataset.x.split("|");
    return {
      name: path.dataset.name,
      style: path.getAttribute("class"),
      x,
      at: x.map((value) => start + ((value - low) / (high - low)) * (end - start)),
      y: path.dataset.y.split("|"),
    };
  });
  const rule = svg.querySelector(".rule");
  const figure = svg.closest("figure");
  if (!lines.length || !figure) continue;
  const tip = document.createElement("div");
  tip.className = "tip";
  figure.append(tip);
  const show = (event) => {
    const frame = svg.getBoundingClientRect();
    const at = ((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width;
    let nearest = null;
    for (const line of lines) {
      for (let n = 0; n < line.at.length; n++) {
        const far = Math.abs(line.at[n] - at);
        if (nearest === null || far < nearest.far) nearest = { far, at: line.at[n], x: line.x[n] };
      }
    }
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = `${figure.dataset.x} ${nearest.x}`;
    tip.append(head);
    for (const line of lines) {
      let n = 0;
      for (let k = 1; k < line.at.length; k++) {
        if (Math.abs(line.at[k] - nearest.at) < Math.abs(line.at[n] - nearest.at)) n = k;
      }
      const row = document.createElement("span");
      row.className = line.style;
      row.textContent = `${line.name} ${line.y[n]}`;
      tip.append(row);
    }
    rule.setAttribute("transform", `translate(${nearest.at} 0)`);
    figure.classList.add("pointed");
    const inner = figure.getBoundingClientRect();
    const x = frame.left - inner.left + (nearest.at / svg.viewBox.baseVal.width) * frame.width;
    const left = x + 12 + tip.offsetWidth > inner.width ? x - 12 - tip.offsetWidth : x + 12;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${frame.top - inner.top + 8}px`;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", () => figure.classList.remove("pointed"));
}

const links = new Map(
  [...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]),
);
if ("IntersectionObserver" in window) {
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const [id, link] of links) {
          link.toggleAttribute("aria-current", id === entry.target.id);
        }
      }
    },
    { rootMargin: "-10% 0px -80% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) observer.observe(section);
}

for (const button of document.querySelectorAll("button.pair")) {
  button.addEventListener("click", () => {
    const isLarge = button.closest("figure").classList.toggle("large");
    button.setAttribute("aria-pressed", isLarge);
  });
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
