// Which words the cache kept: marks in the document's text, and the passages that most layers keep.

const $ = (id) => document.getElementById(id);
const LEVELS = 4;
const N_PASSAGES = 4;

export function clear() {
  $("kept").hidden = true;
  $("passages").replaceChildren();
  $("text").replaceChildren();
}

// report: { n_layers, pieces: [[text, layers], ...] }; documents: [{ name, text }, ...]
export function show(report, documents) {
  const all = report.pieces.map(([text]) => text).join("");
  const found = documents.map((each) => [each, all.indexOf(each.text.trim())]).filter(([, at]) => at >= 0);
  const [name, from, to] = found.length
    ? [found[0][0].name, found[0][1], found.at(-1)[1] + found.at(-1)[0].text.trim().length]
    : ["Conversation", 0, all.length];
  const shares = cut(report, from, to);
  $("text-title").textContent = name;
  $("text").replaceChildren(...shares.map(([text, share]) => marked(text, share)));
  $("passages").replaceChildren(...strongest(shares).map(passage));
  $("kept").hidden = false;
}

// The pieces between two places of the text, with the share of layers instead of their number.
function cut({ pieces, n_layers }, from, to) {
  const inside = [];
  let at = 0;
  for (const [text, layers] of pieces) {
    const part = text.slice(Math.max(from - at, 0), Math.max(to - at, 0));
    if (part) inside.push([part, layers / n_layers]);
    at += text.length;
  }
  return inside;
}

function marked(text, share) {
  if (!share) return document.createTextNode(text);
  const mark = document.createElement("mark");
  mark.className = `l${Math.ceil(share * LEVELS)}`;
  mark.title = `${Math.round(100 * share)} % of the layers keep this`;
  mark.textContent = text;
  return mark;
}

// Sentences with the largest mean share: { text, share, at }.
function strongest(shares) {
  const text = shares.map(([part]) => part).join("");
  const held = new Float32Array(text.length);
  let end = 0;
  for (const [part, share] of shares) held.fill(share, end, (end += part.length));
  return [...text.matchAll(/[^.!?\n]{12,}[.!?]*/g)]
    .map(({ 0: said, index }) => ({
      text: said.trim(),
      at: index,
      share: held.subarray(index, index + said.length).reduce((a, b) => a + b, 0) / said.length,
    }))
    .filter(({ share }) => share > 0)
    .sort((a, b) => b.share - a.share)
    .filter(({ text }, index, sorted) => sorted.findIndex((each) => each.text === text) === index)
    .slice(0, N_PASSAGES);
}

function passage({ text, share, at }) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const said = document.createElement("span");
  const number = document.createElement("span");
  button.type = "button";
  said.textContent = text.length > 140 ? `${text.slice(0, 140)}…` : text;
  number.textContent = `${Math.round(100 * share)} %`;
  number.className = "share";
  button.append(said, number);
  button.addEventListener("click", () => goTo(at));
  item.append(button);
  return item;
}

function goTo(at) {
  const box = $("text");
  let passed = 0;
  for (const node of box.childNodes) {
    passed += node.textContent.length;
    if (passed <= at || node.nodeName !== "MARK") continue;
    box.querySelector(".here")?.classList.remove("here");
    node.classList.add("here");
    box.scrollTop = node.offsetTop - box.offsetTop - box.clientHeight / 3;
    box.focus({ preventScroll: true });
    box.scrollIntoView({ block: "nearest" });
    return;
  }
}
