import { createServer } from "node:http";

// Config keys of the app are environment variables; the agent adds PORT and ADF_RELEASE.
const { PORT = "8000", GREETING = "Hello World", ADF_RELEASE = "no release" } = process.env;

const server = createServer((request, response) => {
  const health = request.url === "/health";
  response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" });
  response.end(health ? "ok\n" : `${GREETING} from ${ADF_RELEASE}\n`);
});

// SIGTERM: take no new connection, answer the requests under way, then end.
process.on("SIGTERM", () => server.close());

server.listen(Number(PORT), () => console.log(`listening on port ${server.address().port}`));
