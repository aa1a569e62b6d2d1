// softmax(u / τ) and its filters, as chainrule/generation/sampling.py computes them, in float32. Knows no token's text.
//
// A filter keeps the tokens above some logit: with the tokens sorted by their logits it keeps the first ones.

const COLDEST = 1e-6; // below this temperature the most probable token is taken
const IDS = 2 ** 21; // more than any vocabulary has
const round = Math.fround;

// The logits that the server sent: base64 of little-endian float32.
export function decodeLogits(base64) {
  const bytes = Uint8Array.from(atob(base64), character => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

// Token ids by falling logit, equal ones by rising id. Each logit and id become one whole number below 2⁵³, which
// sorts fast: 250,000 of them in some hundredths of a second.
export function byLogit(logits) {
  const bits = new Uint32Array(Float32Array.from(logits, logit => logit + 0).buffer); // + 0: -0 is 0
  const keys = Float64Array.from(bits, (each, id) => {
    const rising = each >>> 31 ? ~each >>> 0 : (each | 0x80000000) >>> 0; // as the floats rise
    return (0xffffffff - rising) * IDS + id;
  });
  return Uint32Array.from(keys.sort(), key => key % IDS);
}

// log Σ exp(u), in float64.
export function logSumExp(logits) {
  let most = -Infinity;
  for (const logit of logits) most = Math.max(most, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  return most + Math.log(sum);
}

// The probabilities of the tokens that are kept, the first `probabilities.length` of `order`: the others have 0.
export function reshape(logits, order, { temperature = 1, topK = null, topP = null, minP = null } = {}) {
  if (temperature < COLDEST) return Float32Array.of(1);
  const V = order.length, greatest = logits[order[0]], tau = round(temperature);
  const scaled = new Float32Array(V); // (u - max u) / τ, by rank
  for (let rank = 0; rank < V; rank++) scaled[rank] = round(round(logits[order[rank]] - greatest) / tau);
  let kept = V;
  if (topK !== null) kept = withEquals(scaled, Math.min(topK, V));
  if (topP !== null && topP < 1) kept = withEquals(scaled, nucleus(softmax(scaled, kept), round(topP)));
  if (minP !== null) {
    const probabilities = softmax(scaled, kept), least = round(round(minP) * probabilities[0]);
    while (kept > 1 && probabilities[kept - 1] < least) kept--;
  }
  return softmax(scaled, kept);
}

// How many tokens have a logit of at least that of the count-th.
function withEquals(scaled, count) {
  while (count < scaled.length && scaled[count] === scaled[count - 1]) count++;
  return count;
}

// How many of the most probable sum to p: those whose more probable ones sum to less.
function nucleus(probabilities, p) {
  let sum = 0, count = 1;
  for (let rank = 0; rank < probabilities.length; rank++) {
    sum += probabilities[rank];
    if (round(round(sum) - probabilities[rank]) < p) count = rank + 1;
  }
  return count;
}

function softmax(scaled, kept) {
  const exponentials = new Float32Array(kept);
  let sum = 0;
  for (let rank = 0; rank < kept; rank++) sum += exponentials[rank] = Math.exp(scaled[rank]);
  const total = round(sum);
  return exponentials.map(each => each / total);
}

// The rank of a token drawn from the probabilities.
export function draw(probabilities, random = Math.random) {
  let total = 0;
  for (const p of probabilities) total += p;
  const reached = random() * total;
  let sum = 0;
  for (let rank = 0; rank < probabilities.length; rank++) {
    sum += probabilities[rank];
    if (sum > reached) return rank;
  }
  return probabilities.length - 1;
}

// Entropy in nats.
export function entropy(probabilities) {
  let sum = 0;
  for (const p of probabilities) if (p > 0) sum -= p * Math.log(p);
  return sum;
}
