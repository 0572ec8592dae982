document.addEventListener("click", (event) => {
  const button = event.target.closest("button[aria-controls]");
  if (!button) return;
  const text = document.getElementById(button.getAttribute("aria-controls"));
  text.hidden = !text.hidden;
  button.setAttribute("aria-expanded", String(!text.hidden));
  button.textContent = text.hidden ? button.dataset.show : button.dataset.hide;
});
for (const tools of document.querySelectorAll(".tools")) {
  const section = tools.closest("section");
  const samples = [...section.querySelectorAll(".sample")];
  const value = (tool) => tools.querySelector(`[data-tool="${tool}"]`).value;
  const update = () => {
    const words = value("search").trim().toLowerCase();
    const kind = value("kind");
    const chosen = [value("first"), value("second")].filter((name) => name);
    section.classList.toggle("compare", new Set(chosen).size === 2);
    for (const sample of samples) {
      const texts = [...sample.querySelectorAll(":scope > .text")];
      for (const method of sample.querySelectorAll("[data-method]")) {
        const name = method.dataset.method;
        method.hidden = chosen.length > 0 && !chosen.includes(name);
        method.style.order = chosen.length ? chosen.indexOf(name) : "";
        if (!method.hidden) texts.push(...method.querySelectorAll(".text"));
      }
      const has = texts.some((text) => text.textContent.toLowerCase().includes(words));
      sample.hidden = !has || (kind !== "" && sample.dataset.kind !== kind);
    }
    const shown = samples.filter((sample) => !sample.hidden).length;
    const methods = tools.querySelector("[data-tool=first]").options.length - 1;
    const of = chosen.length ? `, ${new Set(chosen).size} of ${methods} methods` : "";
    tools.querySelector("[role=status]").textContent = `${shown} of ${samples.length} prompts${of}`;
  };
  tools.hidden = false;
  tools.addEventListener("input", update);
  update();
}
