// The `ollama` package for Node: `node ollama_npm.mjs JSON`, with the package in node_modules beside this file.
// Runs the parts that `parts` of the JSON names and prints one JSON object of what they saw; the tests decide.

import { readFileSync } from 'node:fs'
import { Ollama } from 'ollama'

const given = JSON.parse(process.argv[2])
const { model, messages, options } = given
const installed = readFileSync(new URL('./node_modules/ollama/package.json', import.meta.url))
const seen = { versions: { ollama: JSON.parse(installed).version, node: process.version } }

async function all(stream) {
  const parts = []
  for await (const part of stream) parts.push(part)
  return parts
}

async function raising(name, action) {
  seen[name] = null
  try {
    await action()
  } catch (error) {
    seen[name] = { class: error.name, status: error.status_code ?? null, text: error.message }
  }
}

const parts = {
  async chats(client) {
    seen.chat = await client.chat({ model, messages, options })
    seen.stream = await all(await client.chat({ model, messages, options, stream: true }))
    seen.schema = await client.chat({ model, messages: given.tool_messages, options, format: given.schema })
    seen.logprobs = await client.chat({ model, messages, options, logprobs: true, top_logprobs: 3 })
    seen.load = await client.chat({ model, messages: [] })
  },

  async tools(client) {
    const ask = { model: given.tool_model, messages: given.tool_messages, tools: given.tools, options }
    seen.tools = await client.chat(ask)
    seen.tools_stream = await all(await client.chat({ ...ask, stream: true }))
    const result = { role: 'tool', tool_name: 'get_weather', content: '22 degrees' }
    seen.tools_after = await client.chat({ ...ask, messages: [...ask.messages, seen.tools.message, result] })
  },

  async generates(client) {
    const ask = { model, prompt: given.question, options }
    seen.generate = await client.generate(ask)
    seen.generate_stream = await all(await client.generate({ ...ask, stream: true }))
    seen.raw = await client.generate({ ...ask, prompt: given.raw, raw: true })
  },

  async about(client) {
    seen.list = await client.list()
    seen.ps = await client.ps()
    seen.show = await client.show({ model })
    seen.version = await client.version()
  },

  async errors(client) {
    const nobody = { model: 'nobody', messages }
    await raising('error_model', () => client.chat(nobody))
    await raising('error_model_stream', async () => all(await client.chat({ ...nobody, stream: true })))
    await raising('error_think', () => client.chat({ model, messages, think: true }))
    await raising('error_show', () => client.show({ model: 'nobody' }))
    await raising('error_pull', () => client.pull({ model: 'llama3' }))
    await raising('error_delete', () => client.delete({ model }))
    // An answer that is long enough to be left in the middle.
    const format = { type: 'array', items: { type: 'integer' }, minItems: 300 }
    await raising('error_abort', async () => {
      const long = { ...options, num_predict: 600 }
      const stream = await client.chat({ model, messages, options: long, format, stream: true })
      for await (const part of stream) {
        seen.before_abort ??= part
        stream.abort()
      }
    })
  },

  async embeds() {
    const client = new Ollama({ host: given.embed_url })
    seen.embed = await client.embed({ model: given.embed_model, input: given.texts })
    seen.embeddings = await client.embeddings({ model: given.embed_model, prompt: given.texts[0] })
  },
}

for (const name of given.parts) await parts[name](new Ollama({ host: given.url }))
console.log(JSON.stringify(seen))
