// What the dashboard knows: the state that was asked for, and the messages that came since. It touches no page.

export class Model {
  constructor() {
    this.version = -1;
    this.reports = new Map();
    this.orders = [];
    this.bars = new Map();
    this.skew = 0;
    this.bar = 10;
    this.ahead = 0;
  }

  /** The time at the shop, in seconds. */
  now() {
    return Date.now() / 1000 + this.skew;
  }

  day() {
    return new Date(this.now() * 1000).toISOString().slice(0, 10);
  }

  /** Takes the state as a whole. Messages that are older than its version will be dropped. */
  replace(state) {
    this.version = state.version;
    this.skew = state.now - Date.now() / 1000;
    this.bar = state.bar;
    this.reports = new Map(state.reports.map((report) => [`${report.day} ${report.region}`, report]));
    this.orders = state.orders.slice().reverse();
    this.bars = new Map(state.bars.map(({ time, region, amount }) => [`${time} ${region}`, amount]));
    this.ahead = 0;
  }

  /** Takes a message. Returns `news`, `old`, or `hole` when something before it did not come. */
  take(message) {
    if (message.kind === "report") return this.#report(message);
    if (message.kind === "order") return this.#order(message);
    if (message.kind === "tick") return this.#tick(message);
    return "news";
  }

  #report(report) {
    const key = `${report.day} ${report.region}`;
    if (report.version <= (this.reports.get(key)?.version ?? -1)) return "old";
    this.reports.set(key, report);
    return "news";
  }

  #order(order) {
    if (order.version <= this.version) return "old";
    if (order.version > this.version + 1) return "hole";
    this.version = order.version;
    this.orders = [order, ...this.orders].slice(0, 12);
    const key = `${Math.floor(order.time / this.bar) * this.bar} ${order.region}`;
    this.bars.set(key, (this.bars.get(key) ?? 0) + order.amount);
    return "news";
  }

  /** The ticks tell of what was lost last, which no later order would show. Ones that stay behind: the shop began anew. */
  #tick({ version }) {
    this.ahead = version < this.version ? this.ahead + 1 : 0;
    return version > this.version || this.ahead === 3 ? "hole" : "old";
  }

  /** The sums of the shop's present day: in all, and by region with the largest first. */
  today() {
    const day = this.day();
    const regions = [...this.reports.values()].filter((report) => report.day === day);
    regions.sort((a, b) => b.amount - a.amount);
    const sum = (field) => regions.reduce((total, report) => total + report[field], 0);
    return { regions, count: sum("count"), amount: sum("amount") };
  }

  /** The regions in an order that does not change with the sums, so that each keeps its colour. */
  names() {
    return [...new Set([...this.reports.values()].map((report) => report.region))].sort();
  }
}
