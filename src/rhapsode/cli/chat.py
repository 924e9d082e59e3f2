"""rhapsode chat"""

from typing import TYPE_CHECKING, Any

from rhapsode.cli import options
from rhapsode.cli.ask import print_answer
from rhapsode.cli.output import describe_decoding, say
from rhapsode.errors import RhapsodeError

if TYPE_CHECKING:
    from rhapsode.generation.config import GenerationConfig

HELP = """type text to continue it, or:
  set NAME VALUE   change a setting
  stats            speed of the last answer
  help             this text and the settings
  quit, exit       leave"""
MEMORY_HELP = """with --memory also:
  teach TEXT       remember a fact
  ask QUESTION     answer from what was taught
  forget ID        erase a fact"""


def chat(
    run: options.Run,
    decode: options.Decode = "plain",
    memory: options.UseMemory = False,
    space: options.Space = "default",
    device: options.Device = None,
) -> None:
    """Prompt a model again and again on a terminal; with --memory also teach, ask and forget."""
    converse(run, {"decode": decode}, device, memory=memory, space=space)


def converse(
    run: str, settings: dict[str, Any], device: str | None, *, memory: bool = False, space: str = "default"
) -> None:
    """Read prompts and commands until `quit`, end of input or Ctrl-C at the prompt."""
    from rhapsode import api
    from rhapsode.config import build_config
    from rhapsode.generation.config import GenerationConfig

    model = api.load(run, device=device or "auto")
    config = build_config(GenerationConfig, settings, "generation")
    say(f"{model.folder.path}: {model.decoder.num_parameters():,} parameters. help for help, quit to leave.")
    last: Any = None
    while True:
        try:
            line = input("> ")
        except EOFError:
            return
        words = line.split()
        if not words:
            continue
        if words[0] in {"quit", "exit"} and len(words) == 1:
            return
        if words == ["help"]:
            print(f"{HELP}\n{MEMORY_HELP}" if memory else HELP)
            for name, value in config.model_dump().items():
                print(f"  {name} = {value}")
        elif words == ["stats"]:
            print(_stats(last))
        elif words[0] == "set" and len(words) >= 2:
            config = _set(config, words[1:])
        elif memory and words[0] in {"teach", "ask", "forget"} and len(words) >= 2:
            _remember(model, words[0], line.split(maxsplit=1)[1], space)
        else:
            last = _answer(model, line, {**config.model_dump(), "memory": memory, "space": space})


def _remember(model: Any, verb: str, rest: str, space: str) -> None:
    try:
        if verb == "teach":
            print(f"taught as {model.teach(rest, space=space).ids[0]}")
        elif verb == "ask":
            print_answer(model.ask(rest, space=space))
        elif not rest.isdecimal():
            say(f"forget must be given the id of a memory; got {rest}.")
        else:
            done = model.forget(int(rest))
            print("erased" if done.erased else "forgotten; its bytes go when no other process reads the memory")
            for older in done.restored:
                print(f"{older['id']} answers again: {older['text']}")
    except RhapsodeError as error:
        # nothing that is wrong with a line must end the conversation.
        say(str(error))


def _answer(model: Any, prompt: str, settings: dict[str, Any]) -> Any:
    try:
        stream = model.stream(prompt, **settings)
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    except RhapsodeError as error:
        # a prompt that is too long must not end the conversation.
        say(str(error))
        return None
    except KeyboardInterrupt:
        print()
        return None
    print()
    if settings["decode"] == "draft":
        # lossy text must not pass for the model's.
        say(_stats(stream.generation))
    return stream.generation


def _set(config: "GenerationConfig", words: list[str]) -> "GenerationConfig":
    from rhapsode.config import build_config, parse_overrides
    from rhapsode.generation.config import GenerationConfig

    name, _, rest = " ".join(words).partition("=") if "=" in words[0] else (words[0], "", " ".join(words[1:]))
    try:
        changed = build_config(
            GenerationConfig, {**config.model_dump(), **parse_overrides([f"{name}={rest.strip()}"])}, "generation"
        )
    except RhapsodeError as error:
        say(str(error))
        return config
    print(f"{name} = {getattr(changed, name)}")
    return changed


def _stats(last: Any) -> str:
    if last is None:
        return "nothing was generated yet."
    return (
        f"{last.tokens} tokens, {last.tokens_per_s:,.0f} tokens/s, {last.latency_s:.2f} s, "
        f"first after {last.time_to_first_token_s * 1000:.0f} ms, prompt of {last.prompt_tokens} tokens"
        + describe_decoding(last)
    )
