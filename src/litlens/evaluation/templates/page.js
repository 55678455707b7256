(() => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const gallery = document.querySelector("form.filter + .gallery");
  const cards = [...gallery.children].map((node, place) => ({ node, place, ...node.dataset }));
  const orders = {
    loss: (a, b) => b.loss - a.loss,
    name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
    sure: (a, b) => b.confidence - a.confidence,
    unsure: (a, b) => a.confidence - b.confidence,
  };
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    const shown = cards.filter(
      (card) =>
        ["right", "label", "predicted"].every((key) => !wanted[key] || card[key] === wanted[key]) &&
        100 * card.confidence >= (wanted.low || 0) &&
        100 * card.confidence <= (wanted.high || 100)
    );
    const order = orders[wanted.sort];
    shown.sort((a, b) => order(a, b) || a.place - b.place);
    gallery.replaceChildren(...shown.map((card) => card.node));
    form.querySelector("output").textContent = `${shown.length} of ${cards.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
