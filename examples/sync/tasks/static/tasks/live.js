// Follows a channel of numbered changes and never shows a hole: the stream is opened first, then the state is fetched,
// and what comes meanwhile is kept. A number that was jumped over means fetching the state again.

const LONGEST = 10_000; // the longest pause between two attempts, in milliseconds
const STEADY = 10_000; // a stream that has stood for so long counts as good, so that the next pause is short again
const LOOK = 30_000; // how often the state is asked for although nothing came: the bus keeps nothing for those it missed

export function follow({ stream, state, onState, onChange, onStatus }) {
  let source;
  let number; // of the last change that is shown
  let waiting; // changes that came while the state is fetched; undefined when it is not
  let attempt = 0;
  let steady;

  function connect() {
    onStatus("connecting");
    source = new EventSource(stream);
    source.onopen = () => {
      steady = setTimeout(() => (attempt = 0), STEADY);
      fetchState();
    };
    source.onmessage = (event) => take(JSON.parse(event.data));
    source.onerror = again;
  }

  /** Its own way of coming back has no jitter, and all who were on a node that died would come in the same moment. */
  function again() {
    source.close();
    clearTimeout(steady);
    waiting = undefined;
    onStatus("waiting");
    setTimeout(connect, Math.random() * Math.min(LONGEST, 500 * 2 ** attempt++));
  }

  async function fetchState() {
    const mine = source;
    waiting ??= [];
    try {
      const answer = await fetch(state, { cache: "no-store" });
      if (!answer.ok) throw new Error(`${state}: ${answer.status}`);
      const whole = await answer.json();
      if (mine !== source || !waiting) return;
      const kept = waiting;
      waiting = undefined;
      number = whole.number;
      onState(whole);
      onStatus("live");
      kept.forEach(take);
    } catch {
      if (mine === source) again();
    }
  }

  function take(change) {
    if (waiting) return waiting.push(change);
    if (change.number <= number) return;
    // Asked once for each: numbers that are never found, as after a restored database, must not be asked for for ever.
    if (change.number > number + 1 && !change.asked) {
      waiting = [{ ...change, asked: true }];
      return fetchState();
    }
    number = change.number;
    onChange(change);
  }

  async function look() {
    if (source.readyState !== EventSource.OPEN || waiting) return;
    const answer = await fetch(`${state}?have=${number}`, { cache: "no-store" }).catch(() => undefined);
    if (answer?.status === 200 && !waiting && (await answer.json()).number > number) fetchState();
  }

  connect();
  setInterval(look, LOOK);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && look());
}
