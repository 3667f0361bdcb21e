const answer = await fetch(`${process.env.CLARION_URL}/orders/eu`, { // http://127.0.0.1:8000
  method: "POST",
  headers: { "Content-Type": "application/json", "X-API-Key": process.env.CLARION_API_KEY },
  body: JSON.stringify({ id: 7, amount: "12.50" }),
  signal: AbortSignal.timeout(10_000),
});
// 503: try again; 504: nobody can know
if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
