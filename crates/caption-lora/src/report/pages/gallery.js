// Filters and sorts the gallery. Without scripts all pictures are shown, in the dataset's order.
(() => {
  const list = document.querySelector(".gallery");
  const controls = document.querySelector(".controls");
  if (!list || !controls) return;
  const items = [...list.children];
  const shown = controls.querySelector("output");
  const number = (item, key) => Number(item.dataset[key]);
  const orders = {
    row: () => 0,
    best: (a, b) => number(b, "adapter") - number(a, "adapter"),
    worst: (a, b) => number(a, "adapter") - number(b, "adapter"),
    gained: (a, b) => number(b, "adapter") - number(b, "base") - number(a, "adapter") + number(a, "base"),
    lost: (a, b) => number(a, "adapter") - number(a, "base") - number(b, "adapter") + number(b, "base"),
  };
  const update = () => {
    const show = controls.querySelector("input:checked").value;
    let count = 0;
    for (const item of items) {
      item.hidden = show !== "all" && item.dataset.changed !== show;
      count += !item.hidden;
    }
    list.append(...[...items].sort(orders[controls.querySelector("select").value]));
    shown.textContent = `${count} of ${items.length} shown`;
  };
  controls.hidden = false;
  controls.addEventListener("change", update);
  update();
})();
