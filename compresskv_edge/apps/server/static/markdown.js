// A little Markdown, built of nodes and never of HTML: code, bold, italics, lists, headings as bold lines.

export function render(text) {
  const blocks = [];
  for (const [index, part] of text.split(/^```.*$/m).entries()) {
    if (index % 2) blocks.push(wrap("pre", wrap("code", part.replace(/^\n|\n$/g, ""))));
    else for (const block of part.split(/\n{2,}/)) if (block.trim()) blocks.push(...paragraph(block.trim()));
  }
  return blocks;
}

function paragraph(block) {
  const lines = block.split("\n");
  const bullet = lines.every((line) => /^\s*[-*+] /.test(line));
  const numbered = lines.every((line) => /^\s*\d+[.)] /.test(line));
  if (bullet || numbered) {
    const items = lines.map((line) => wrap("li", ...inline(line.replace(/^\s*([-*+]|\d+[.)]) /, ""))));
    return [wrap(bullet ? "ul" : "ol", ...items)];
  }
  const heading = block.match(/^#{1,6} (.*)$/);
  if (heading) return [wrap("p", wrap("strong", ...inline(heading[1])))];
  const parts = lines.flatMap((line, index) => [...(index ? [document.createElement("br")] : []), ...inline(line)]);
  return [wrap("p", ...parts)];
}

function inline(text) {
  return text
    .split(/(`[^`]+`|\*\*[^*]+\*\*|(?<!\w)\*[^*\s][^*]*\*(?!\w))/)
    .filter(Boolean)
    .map((part) => {
      if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) return wrap("code", part.slice(1, -1));
      if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) return wrap("strong", part.slice(2, -2));
      if (part.length > 2 && part.startsWith("*") && part.endsWith("*")) return wrap("em", part.slice(1, -1));
      return document.createTextNode(part);
    });
}

function wrap(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}
