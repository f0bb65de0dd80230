"""An agent loop of one's own, on nothing but the environment. Runs offline; pass a model's name to use a real one."""

import asyncio
import sys

import rlm

NOTES = "\n\n".join(f"Note {n}: the {'blue' if n % 3 == 0 else 'red'} valve was shut." for n in range(60))
ASK = "How many notes in `context` speak of a blue valve? Write Python in one ```repl fence; FINAL(answer) ends."
SCRIPT = [
    "```repl\nnotes = context.split('\\n\\n')\nprint(len(notes), notes[0])\n```",
    "```repl\ncolours = llm_batch_query(['Which colour? ' + note for note in notes])\nprint(colours[:3])\n```",
    "```repl\nFINAL(colours.count('blue'))\n```",
]


def colour_of(prompt: str) -> str:
    return "blue" if "blue" in prompt else "red"


async def answer(root: rlm.Model, sub: rlm.Model | None = None, use_pure_async: bool | None = None) -> object:
    chat = [{"role": "user", "content": ASK}]
    async with rlm.AsyncRLMReplEnvironment(sub or colour_of, NOTES, use_pure_async=use_pure_async) as env:
        for _ in range(10):
            reply = await root.complete(rlm.Request(chat[-1]["content"], messages=tuple(chat)))
            result = await env.execute_async(reply.text.partition("```repl\n")[2].partition("```")[0])
            if result.final is not None:
                return result.final.value
            chat.append({"role": "assistant", "content": reply.text})
            chat.append({"role": "user", "content": result.to_text()[:20_000]})
    return None


async def main(names: list[str]) -> None:
    async with rlm.open_model(names[0] if names else rlm.ScriptedModel(SCRIPT)) as root:
        print(await answer(root, root if names else None))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
