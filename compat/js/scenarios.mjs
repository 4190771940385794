// The scenarios of the official `openai` client for npm, against a running Helix.
// What they need comes from the environment; each prints one line of JSON when it is over.
// tests/compat/test_npm.py starts Helix, runs this, and looks at what was recorded.

import assert from "node:assert/strict";
import OpenAI from "openai";

const { HELIX_URL, HELIX_KEY, HELIX_KEY_NARROW, HELIX_KEY_LIMITED } = process.env;
const HELLO = [{ role: "user", content: "hello" }];
const SAID = "you said hello";
const SCHEMA = { type: "object", properties: { city: { type: "string" } } };

const client = (options = {}) =>
  new OpenAI({ baseURL: `${HELIX_URL}/v1`, apiKey: HELIX_KEY, maxRetries: 0, ...options });
const helix = client();
const tool = (name) => ({ type: "function", function: { name, parameters: SCHEMA } });
const chatWith = (fields = {}, options = {}) =>
  helix.chat.completions.create({ model: "up/chat", messages: HELLO, ...fields }, options);
const collect = async (stream) => {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
};
const raised = async (kind, call) => {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    return error;
  }
  assert.fail(`no ${kind.name} was raised`);
};

const scenarios = {
  async chat() {
    const answer = await chatWith();
    assert.equal(answer.choices[0].message.content, SAID);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.usage.total_tokens, 25);
  },
  async chat_stream() {
    const chunks = await collect(
      await chatWith({ stream: true, stream_options: { include_usage: true } }),
    );
    const pieces = chunks.flatMap((c) => c.choices).map((c) => c.delta.content ?? "");
    assert.equal(pieces.join(""), SAID);
    assert.equal(pieces.filter(Boolean).length, 3);
    assert.equal(chunks.at(-1).usage.total_tokens, 25);
  },
  async tools() {
    const tools = [tool("weather")];
    const first = await chatWith({ tools });
    const call = first.choices[0].message.tool_calls[0];
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
    const result = { role: "tool", tool_call_id: call.id, content: "21 degrees" };
    const second = await chatWith({
      tools,
      messages: [...HELLO, first.choices[0].message, result],
    });
    assert.equal(second.choices[0].message.content, "the tools said 21 degrees");
  },
  async tools_parallel() {
    const answer = await chatWith({ tools: [tool("weather"), tool("population")] });
    const names = answer.choices[0].message.tool_calls.map((one) => one.function.name);
    assert.deepEqual(names, ["weather", "population"]);
  },
  async tools_streamed() {
    const stream = helix.chat.completions.stream({
      model: "up/chat",
      messages: HELLO,
      tools: [tool("weather"), tool("population")],
    });
    const answer = await stream.finalChatCompletion();
    const told = answer.choices[0].message.tool_calls.map((one) => one.function);
    assert.deepEqual(
      told.map((one) => [one.name, JSON.parse(one.arguments).city]),
      [["weather", "Paris"], ["population", "Oslo"]],
    );
  },
  async json_schema() {
    const schema = {
      type: "object",
      properties: { city: { type: "string" }, celsius: { type: "integer" } },
      required: ["city", "celsius"],
      additionalProperties: false,
    };
    const answer = await helix.chat.completions.create({
      model: "up/chat",
      messages: HELLO,
      response_format: { type: "json_schema", json_schema: { name: "r", schema, strict: true } },
    });
    assert.deepEqual(JSON.parse(answer.choices[0].message.content), { city: "Paris", celsius: 21 });
  },
  async vision() {
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } };
    const content = [{ type: "text", text: "look" }, image];
    const answer = await chatWith({ messages: [{ role: "user", content }] });
    assert.equal(answer.choices[0].message.content, "you said look with 1 image");
  },
  async n() {
    const answer = await chatWith({ n: 3 });
    assert.deepEqual(
      answer.choices.map((one) => one.message.content),
      [SAID, `${SAID} #1`, `${SAID} #2`],
    );
    const told = ["", ""];
    for await (const chunk of await chatWith({ n: 2, stream: true })) {
      for (const one of chunk.choices) told[one.index] += one.delta.content ?? "";
    }
    assert.deepEqual(told, [SAID, `${SAID} #1`]);
  },
  async logprobs() {
    const answer = await chatWith({ logprobs: true, top_logprobs: 2 });
    assert.equal(answer.choices[0].logprobs.content[0].top_logprobs.length, 2);
  },
  async reasoning() {
    const answer = await chatWith({ model: "up/thinks" });
    assert.equal(answer.choices[0].message.reasoning_content, "let me see");
  },
  async length() {
    const answer = await chatWith({ max_completion_tokens: 1 });
    assert.equal(answer.choices[0].finish_reason, "length");
  },
  async unknown_fields() {
    const { request_id } = await chatWith({ a_new_field: "from npm" }).withResponse();
    return { request_id };
  },
  async helix_options() {
    const { request_id } = await chatWith({ helix: { agent: "scenario" } }).withResponse();
    return { request_id };
  },
  async completions() {
    const native = await helix.completions.create({ model: "up/chat", prompt: ["a", "b"] });
    assert.deepEqual(native.choices.map((one) => one.text), ["after a", "after b"]);
    const told = await helix.completions.create({ model: "claude/native", prompt: "c" });
    assert.equal(told.choices[0].text, "natively: c");
  },
  async completions_stream() {
    for (const [model, text] of [["up/chat", "after a "], ["claude/native", "natively: a"]]) {
      const stream = await helix.completions.create({ model, prompt: "a", stream: true });
      const chunks = await collect(stream);
      assert.equal(chunks.map((one) => one.choices[0].text).join(""), text);
    }
  },
  async embeddings() {
    const coded = await helix.embeddings.create({ model: "up/embedder", input: ["ab", "abc"] });
    assert.deepEqual(coded.data.map((one) => [...one.embedding]), [[2, 0.5, -0.25], [3, 0.5, -0.25]]);
    const plain = await helix.embeddings.create({
      model: "up/embedder",
      input: "abcd",
      encoding_format: "float",
    });
    assert.deepEqual(plain.data[0].embedding, [4, 0.5, -0.25]);
  },
  async moderations() {
    assert.ok((await helix.moderations.create({ input: "hate" })).results[0].flagged);
    assert.ok(!(await helix.moderations.create({ input: "love" })).results[0].flagged);
  },
  async models() {
    const listed = (await collect(await helix.models.list())).map((one) => one.id);
    assert.ok(listed.includes("up/chat") && listed.includes("mock/echo"));
    assert.equal((await helix.models.retrieve("up/chat")).owned_by, "up");
  },
  async responses() {
    const answer = await helix.responses.create({
      model: "up/chat",
      input: "hello",
      instructions: "rules",
    });
    assert.equal(answer.output_text, "you said hello under rules");
    assert.equal(answer.usage.total_tokens, 25);
  },
  async responses_stream() {
    const stream = await helix.responses.create({ model: "up/thinks", input: "hello", stream: true });
    const events = await collect(stream);
    assert.deepEqual(events.map((one) => one.sequence_number), events.map((_, n) => n));
    assert.equal(events[0].type, "response.created");
    assert.equal(events.at(-1).type, "response.completed");
    const told = helix.responses.stream({ model: "up/chat", input: "hello" });
    assert.equal((await told.finalResponse()).output_text, SAID);
  },
  async responses_state() {
    const first = await helix.responses.create({ model: "up/chat", input: "one" });
    const second = await helix.responses.create({
      model: "up/chat",
      input: "two",
      previous_response_id: first.id,
    });
    assert.equal(second.output_text, "you said two after one");
    assert.equal((await helix.responses.retrieve(second.id)).output_text, second.output_text);
    const items = await collect(await helix.responses.inputItems.list(first.id));
    assert.equal(items[0].content[0].text, "one");
    await helix.responses.delete(first.id);
    await raised(OpenAI.NotFoundError, () => helix.responses.retrieve(first.id));
  },
  async responses_tools() {
    const tools = [{ type: "function", name: "weather", parameters: SCHEMA, strict: false }];
    const first = await helix.responses.create({ model: "up/chat", input: "hello", tools });
    const output = { type: "function_call_output", call_id: first.output[0].call_id, output: "21" };
    const second = await helix.responses.create({
      model: "up/chat",
      input: [output],
      previous_response_id: first.id,
      tools,
    });
    assert.equal(second.output_text, "the tools said 21");
  },
  async error_401() {
    const wrong = client({ apiKey: "hx_live_wrong" });
    const error = await raised(OpenAI.AuthenticationError, () => wrong.models.list());
    assert.ok(error.requestID);
  },
  async error_403() {
    const narrow = client({ apiKey: HELIX_KEY_NARROW });
    const ask = () => narrow.chat.completions.create({ model: "up/chat", messages: HELLO });
    await raised(OpenAI.PermissionDeniedError, ask);
  },
  async error_404() {
    await raised(OpenAI.NotFoundError, () => chatWith({ model: "none/such" }));
    await raised(OpenAI.NotFoundError, () => helix.post("/nothing/here", { body: {} }));
  },
  async error_400() {
    const error = await raised(OpenAI.BadRequestError, () => chatWith({ messages: [{}] }));
    assert.equal(error.param, "messages[0].role");
    await raised(OpenAI.BadRequestError, () => chatWith({ model: "up/refuses" }));
  },
  async error_429() {
    const limited = client({ apiKey: HELIX_KEY_LIMITED });
    const ask = () => limited.chat.completions.create({ model: "up/chat", messages: HELLO });
    await ask();
    const error = await raised(OpenAI.RateLimitError, ask);
    assert.ok(Number(error.headers.get("retry-after")) >= 1);
    await raised(OpenAI.RateLimitError, () => chatWith({ model: "up/limited" }));
  },
  async error_5xx() {
    await raised(OpenAI.InternalServerError, () => chatWith({ model: "up/fails" }));
  },
  async error_413() {
    const messages = [{ role: "user", content: "x".repeat(400_000) }];
    const error = await raised(OpenAI.APIError, () => chatWith({ messages }));
    assert.equal(error.status, 413);
  },
  async error_in_stream() {
    const messages = [{ role: "user", content: "a b c d" }];
    const stream = await chatWith({
      model: "mock/echo",
      messages,
      stream: true,
      helix: { mock: { break_after: 3 } },
    });
    await raised(OpenAI.APIError, () => collect(stream));
  },
  async request_id() {
    const answer = await chatWith();
    assert.ok(answer._request_id);
    return { request_id: answer._request_id };
  },
  async retries() {
    const stubborn = client({ maxRetries: 3 });
    const answer = await stubborn.chat.completions.create({ model: "up/flaky", messages: HELLO });
    assert.equal(answer.choices[0].message.content, SAID);
    return { request_id: answer._request_id };
  },
  async idempotency() {
    const options = { headers: { "Idempotency-Key": "scenario-npm" } };
    const first = await chatWith({}, options);
    const second = await chatWith({}, options).withResponse();
    assert.deepEqual(second.data, first);
    assert.equal(second.response.headers.get("idempotent-replayed"), "true");
    await raised(OpenAI.UnprocessableEntityError, () => chatWith({ temperature: 1 }, options));
  },
  async timeout() {
    const hurried = client({ timeout: 300 });
    const ask = () => hurried.chat.completions.create({ model: "up/slow", messages: HELLO });
    await raised(OpenAI.APIConnectionTimeoutError, ask);
  },
  async cancel() {
    const { data, request_id } = await chatWith({ model: "up/endless", stream: true }).withResponse();
    let heard = "";
    for await (const chunk of data) {
      heard += chunk.choices[0].delta.content ?? "";
      if (heard.length > 30) break;
    }
    return { request_id, heard };
  },
};

if (process.argv.includes("--list")) {
  console.log(JSON.stringify(Object.keys(scenarios)));
} else {
  for (const [scenario, run] of Object.entries(scenarios)) {
    let told;
    try {
      told = { scenario, ok: true, ...(await run()) };
    } catch (error) {
      told = { scenario, ok: false, error: error.stack ?? String(error) };
    }
    console.log(JSON.stringify(told));
  }
}
