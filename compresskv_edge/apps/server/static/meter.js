// The KV meter: what the cache takes now, against what all tokens would take.

const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");

export function bytes(n) {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${n.toFixed(n < 10 && unit ? 1 : 0)} ${units[unit]}`;
}

function show(now, full, words, facts) {
  const share = full ? Math.min((100 * now) / full, 100) : 0;
  $("kv-now").textContent = bytes(now);
  $("toggle-side").textContent = full ? `Memory ${bytes(now)}` : "Memory";
  $("kv-full").textContent = full > now ? `instead of ${bytes(full)}` : "";
  $("meter-fill").style.width = `${share}%`;
  $("meter").setAttribute("aria-valuenow", Math.round(share));
  $("meter").setAttribute("aria-valuetext", words);
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

export function clear() {
  show(0, 0, "nothing read yet", [["Nothing read yet", ""]]);
  $("kv-now").textContent = "–";
}

// While an answer is on its way: a slot as /extras/slots tells.
export function live(slot) {
  const reading = slot.state === "prompt";
  show(slot.kv_bytes, slot.kv_bytes_full, `${bytes(slot.kv_bytes)}, ${reading ? "reading" : "answering"}`, [
    ["Tokens read", numbers.format(slot.n_decoded)],
    ["Stock reserves", bytes(slot.kv_bytes_stock)],
  ]);
  if (!reading) return `Answering: ${numbers.format(slot.n_generated)} tokens`;
  return slot.n_prompt ? `Reading ${numbers.format(slot.n_decoded)} of ${numbers.format(slot.n_prompt)} tokens` : "";
}

// After an answer: `usage` of the last chunk.
export function settled(usage) {
  const kv = usage.kv;
  const mean = kv.n_tokens_kept.reduce((a, b) => a + b, 0) / kv.n_tokens_kept.length;
  show(kv.kv_bytes, kv.kv_bytes_full, `${bytes(kv.kv_bytes)} instead of ${bytes(kv.kv_bytes_full)}`, [
    ["Tokens read", numbers.format(kv.n_tokens_seen)],
    ["Kept a layer, on average", numbers.format(Math.round(mean))],
    ["Stock reserves", bytes(kv.kv_bytes_stock)],
    ["Compressions", `${kv.n_evictions} in ${kv.eviction_ms.toFixed(0)} ms`],
    ["Found in the cache", numbers.format(usage.prompt_tokens_details.cached_tokens)],
  ]);
}
