// Asks a proxy whatever OpenAI's own client can ask, and prints what came as one JSON object; a test judges it.
import OpenAI from "openai";

const { BASE_URL, API_KEY } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const ask = (content) => [{ role: "user", content }];
const weather = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { town: { type: "string" } } } },
};

async function streamed(model) {
  const stream = await client.chat.completions.create({
    model,
    messages: ask("hello from node"),
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let finish = null;
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  return { text, finish, tokens: usage?.completion_tokens };
}

async function tools(model) {
  const messages = ask("use the weather tool");
  const first = await client.chat.completions.create({ model, messages, tools: [weather] });
  const said = first.choices[0].message;
  const result = { role: "tool", tool_call_id: said.tool_calls[0].id, content: "sunny" };
  const second = await client.chat.completions.create({ model, messages: [...messages, said, result], tools: [weather] });
  return {
    finish: first.choices[0].finish_reason,
    name: said.tool_calls[0].function.name,
    arguments: JSON.parse(said.tool_calls[0].function.arguments),
    text: second.choices[0].message.content,
  };
}

async function refused(attempt) {
  try {
    await attempt();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, requestID: error.requestID };
  }
  return null;
}

const whole = await client.chat.completions.create({ model: "demo-small", messages: ask("hello from node") });
const json = await client.chat.completions.create({
  model: "demo-small",
  messages: ask("as JSON"),
  response_format: { type: "json_object" },
});
const embedding = await client.embeddings.create({ model: "demo-small", input: ["one", "two"] });
const listed = await client.models.list();
const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: "nobody", maxRetries: 0 });
console.log(
  JSON.stringify({
    whole: { text: whole.choices[0].message.content, id: whole._request_id },
    json: JSON.parse(json.choices[0].message.content),
    streamed: { openai: await streamed("demo-small"), anthropic: await streamed("demo-claude") },
    tools: { openai: await tools("demo-small"), anthropic: await tools("demo-claude") },
    embeddings: embedding.data.map((one) => one.embedding.length),
    models: listed.data.map((one) => one.id),
    model: (await client.models.retrieve("demo-small")).id,
    unauthorized: await refused(() => stranger.models.list()),
    unknown: await refused(() => client.chat.completions.create({ model: "nobody-has-this", messages: ask("x") })),
    invalid: await refused(() => client.chat.completions.create({ model: "demo-small", messages: "x" })),
  }),
);
