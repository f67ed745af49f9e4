// A click on a heading sorts the photographs by its column, and another one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const [head, body] = [table.tHead.rows[table.tHead.rows.length - 1], table.tBodies[0]];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    return column < 2 ? text : parseFloat(text);
  };
  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  for (const heading of head.cells) {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const column = heading.cellIndex;
      const order = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of head.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((first, second) => {
        const [a, b] = [value(first, column), value(second, column)];
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return sign * compare(a, b);
      });
      body.append(...rows);
    });
  }
}
