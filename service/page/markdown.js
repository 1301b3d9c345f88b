// A model card as elements: headings, lists, tables, code, paragraphs. What it says stays text: nothing in a card, which
// comes with a model from elsewhere, can become markup, a link or a picture.

/** Markdown -> elements; its first headings get the level `level`. */
export const markdown = (text, level) =>
  text.split(/^```.*$/m).flatMap((part, index) => (index % 2 ? [element("pre", part.trim())] : prose(part, level)));

const prose = (text, level) =>
  text
    .replace(/^#+ .*$/gm, "\n$&\n")
    .split(/\n\s*\n/)
    .map((block) => block.trim())
    .filter((block) => block && !block.startsWith("![")) // its plots are files of the store, not of this page
    .map((block) => draw(block, level));

function draw(block, level) {
  const heading = /^(#+) (.*)/.exec(block);
  if (heading) return element(`h${Math.min(6, heading[1].length + level - 1)}`, plain(heading[2]));
  if (block.startsWith("|")) return table(block.split("\n"));
  if (!/^[-*] /.test(block)) return element("p", plain(block));
  const list = document.createElement("ul");
  list.append(...block.split(/\n[-*] /).map((item) => element("li", plain(item.replace(/^[-*] /, "")))));
  return list;
}

function table([head, , ...rows]) {
  const [made, scroller] = [document.createElement("table"), document.createElement("div")];
  const cells = (line) => line.replace(/^\||\|\s*$/g, "").split("|").map((cell) => plain(cell.trim()));
  made.createTHead().insertRow().append(...cells(head).map((text) => element("th", text)));
  const body = made.createTBody();
  for (const line of rows) body.insertRow().append(...cells(line).map((text) => element("td", text)));
  scroller.className = "scroller";
  scroller.append(made);
  return scroller;
}

const plain = (text) => text.replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1").replace(/\*\*|`/g, "").replace(/\*(\S[^*]*)\*/g, "$1").replace(/\s+/g, " ");

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
