"""The page is written for whatever loads, measured over the same questions, or refused in one sentence."""

import html
import json
import re
from dataclasses import replace

import pytest
import tokenizers
import torch
from helpers import TINY, checkpoint, command, each_tensor, largest_file, tokenizer, unchecked

from qwen3_scratch import Error, Ops, Tokenizer, forward, load_checkpoint, save_checkpoint, trace
from qwen3_scratch.explorer import packing, write, writing
from qwen3_scratch.explorer.measured import favourites, losses, measured
from qwen3_scratch.tiny.corpus import DOMAINS
from qwen3_scratch.tiny.evaluate import answer_losses, chat_ids, padded_chats, questions


def refusal(*given, **options) -> str:
    with unchecked(), pytest.raises(Error) as found:
        write(*given, **options)
    assert "\n" not in str(found.value) and "expected" in str(found.value)
    return str(found.value)


def test_the_page_is_one_file_that_names_no_other(tmp_path):
    path = write(checkpoint(), tmp_path / "page.html", questions=0)
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"] and path == tmp_path / "page.html"
    text = path.read_text("utf-8")
    assert re.findall(r"\b(?:src|href)=\"([^\"]*)\"", text) == ["data:,"]
    assert not re.search(r"https?://|\bimport\(|\bfetch\(|XMLHttpRequest|@import|url\(", text)


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    pages = [write(checkpoint(seed=4), tmp_path / name, questions=1).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_what_a_checkpoint_is_called_and_says_ends_no_element_of_the_page(tmp_path):
    named = replace(checkpoint(), path=tmp_path / "</script><script>alert(1)<")
    text = write(named, tmp_path / "page.html", questions=0).read_text("utf-8")
    assert text.count("</script>") == len(re.findall(r"<script[ >]", text)) and "alert(1)<" not in text


@pytest.mark.parametrize("bits", [8, 16])
def test_the_size_that_is_checked_is_the_size_that_is_written(bits):
    weights = checkpoint(attention_bias=True, tie_word_embeddings=False).weights
    assert packing.size_of(weights, bits) == len(packing.packed(weights, bits).content)


def test_a_page_in_eight_bits_is_smaller(tmp_path):
    sizes = [write(checkpoint(), tmp_path / f"{bits}.html", bits=bits, questions=0).stat().st_size for bits in (8, 16)]
    assert sizes[0] < sizes[1]


# ---- what is measured ---------------------------------------------------------------------------


def test_the_cost_of_an_expert_is_the_rise_of_the_loss_without_it():
    ck = checkpoint(num_experts=3, num_experts_per_tok=2, mlp_only_layers=(0,))
    found = measured(ck, 2)
    assert found["costs"][0] is None and len(found["costs"][1]) == 3
    layer = ck.weights.layers[1]
    kept = {name: getattr(layer, name)[[0, 2]] for name in ("router", "gate_up_proj", "down_proj")}
    smaller = ck.weights._replace(layers=(ck.weights.layers[0], layer._replace(**kept)))
    config = replace(ck.config, num_experts=2)
    batches = [padded_chats(ck, questions(domain, 2)) for domain in DOMAINS]
    own = losses(ck, batches)
    for place, chats in enumerate(batches):
        whole, less = (answer_losses(*pair, chats).mean() for pair in ((ck.weights, ck.config), (smaller, config)))
        assert abs(own[place] - whole) < 1e-3 and abs(found["costs"][1][1][place] - (less - whole)) < 1e-3


def test_the_first_favourite_word_of_an_expert_goes_there_at_least_twice_as_often_as_tokens_do():
    ck = load_checkpoint(TINY)
    rows = [chat_ids(ck, example)[0] for domain in DOMAINS for example in questions(domain, 2)]
    with torch.inference_mode():
        found = favourites(ck, rows)
        routes = []
        for row in rows:
            with trace() as recorded:
                forward(ck.weights, torch.tensor([row]), ck.config)
            routes.append(torch.stack([call.output.experts[:, 0] for call in recorded["moe_route"]]))
    first = torch.cat(routes, dim=1)
    read = [token for row in rows for token in row]
    for layer, chosen in zip(found, first, strict=True):
        for expert, words in enumerate(layer):
            for word, times, of in words:
                assert of >= 3 and 0 < times <= of and of <= sum(tokenizer().decode([token]) == word for token in read)
            assert words[0][1] / words[0][2] >= 2 * (chosen == expert).float().mean()


def test_without_experts_nothing_is_measured_and_with_too_many_none_is_switched_off():
    dense = checkpoint(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0)
    assert measured(dense, 1)["costs"] is None and measured(dense, 1)["favourites"] == [None, None]
    many = measured(checkpoint(num_experts=40, num_hidden_layers=2), 1)
    assert many["costs"] is None and len(many["favourites"][0]) == 40


TEMPLATES = {
    "none": None,
    "another form": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ",
    "no end of a turn": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_checkpoint_whose_chats_are_not_of_qwens_form_has_a_page_on_which_nothing_is_measured(template, tmp_path):
    other = replace(checkpoint(), tokenizer=Tokenizer(tokenizer().backend, TEMPLATES[template], "other"))
    assert write(other, tmp_path / "page.html").exists()
    found = writing.page_data(other, questions=8)[0]["measured"]
    assert found["costs"] is None and found["favourites"] == [None, None] and found["questions"] == 0


class Elsewhere(torch.Tensor):
    """A tensor that stands for one of another device: what is computed from it stays there until `cpu` fetches it."""

    def cpu(self, *given, **options):
        return super().cpu(*given, **options).as_subclass(torch.Tensor)

    def numpy(self, *given, **options):
        raise TypeError("can't convert a tensor of another device to numpy")


@pytest.mark.parametrize("bits", [8, 16])
def test_of_a_checkpoint_on_any_device_the_page_is_packed_and_measured_on_the_cpu(bits):
    weights = each_tensor(checkpoint(attention_bias=True).weights, lambda tensor: tensor.as_subclass(Elsewhere))
    assert {type(tensor) for _, _, tensor in packing.named(weights)} == {Elsewhere}
    assert {type(tensor) for _, _, tensor in packing.named(packing.as_read(weights, bits))} == {torch.Tensor}
    here = each_tensor(weights, torch.Tensor.cpu)
    assert packing.packed(weights, bits).content == packing.packed(here, bits).content


def test_what_the_page_leaves_out_of_the_generation_config_it_says():
    asked = {"do_sample": True, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.05}
    data = writing.page_data(checkpoint(generation_config=asked))[0]
    assert data["leftOut"] == {"min_p": 0.1, "repetition_penalty": 1.05} and data["sampling"]["topK"] == 3
    assert writing.page_data(checkpoint())[0]["leftOut"] == {}


def test_a_page_is_named_after_its_folder_and_speaks_of_experts_where_there_are_some():
    assert "<title>tiny-moe: a mixture of experts, alive</title>" in writing.page(load_checkpoint(TINY))
    text = writing.page(checkpoint(model_type="qwen3", num_experts=0, num_experts_per_tok=0, moe_intermediate_size=0))
    assert "<title>tiny-moe: a language model, alive</title>" in text
    assert '<h1 data-label="titleDense">A language model, alive</h1>' in text


def test_before_its_scripts_run_the_page_has_the_english_words_that_they_put_there():
    text, words = writing.page(checkpoint()), writing.labels()["en"]
    said = re.findall(r'data-label="(\w+)"[^>]*>([^<]*)<', text)
    assert len(said) > 40 and all(html.unescape(each) == words[name] for name, each in said)
    template = (writing.PAGE / "page.html.jinja").read_text("utf-8")
    assert all(said.startswith("{{ words") for said in re.findall(r"data-label=[^>]*>([^<]*)<", template))


# ---- refused ------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_too_large_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MOST_BYTES", 100_000)
    said = refusal(checkpoint(), tmp_path / "page.html")
    assert re.fullmatch(
        r"explorer.write: the weights take [\d.]+ kB at 16 bits, expected at most 100.00 kB, which a browser still "
        r"opens: pass bits=8 or explore a smaller checkpoint", said)  # fmt: skip
    assert refusal(checkpoint(), tmp_path / "page.html", bits=8).endswith("opens: explore a smaller checkpoint")
    assert packing.MOST_BYTES == 200_000_000 and not list(tmp_path.iterdir())


def test_another_family_is_refused_where_it_is_read(tmp_path, monkeypatch, capsys):
    save_checkpoint(checkpoint(), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "llama"}))
    found = command(monkeypatch, capsys, "explore", str(tmp_path / "model"), "-o", str(tmp_path / "page.html"))
    assert found.code == 1 and found.err.count("\n") == 1 and "'llama', expected 'qwen3_moe' or 'qwen3'" in found.err


def test_numbers_that_fp16_cannot_hold_are_refused(tmp_path):
    ck = checkpoint()
    big = ck.weights._replace(embed_tokens=ck.weights.embed_tokens.clone())
    big.embed_tokens[3, 1] = 1e5
    said = refusal(replace(ck, weights=big), tmp_path / "page.html")
    assert said == "embed_tokens holds 100000, expected at most 65504, the largest of fp16: pass bits=8"
    assert write(replace(ck, weights=big), tmp_path / "page.html", bits=8, questions=0).exists()
    big.embed_tokens[3, 1] = torch.nan
    assert refusal(replace(ck, weights=big), tmp_path / "other.html").startswith("embed_tokens holds nan, expected")


def changed(**parts) -> Tokenizer:
    content = json.loads(tokenizer().backend.to_str()) | parts
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)), tokenizer().chat_template, "other")


BYTE_LEVEL = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
ODD = {
    "pattern": lambda: changed(pre_tokenizer={"type": "ByteLevel", **BYTE_LEVEL}),
    "normalizer": lambda: changed(normalizer={"type": "Lowercase"}),
    "model": lambda: changed(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, added_tokens=[]),
}  # fmt: skip


@pytest.mark.parametrize("part", ODD)
def test_a_tokenizer_of_another_kind_is_refused(part, tmp_path):
    said = refusal(replace(checkpoint(), tokenizer=ODD[part]()), tmp_path / "page.html")
    assert said.startswith(f"other: its {part} is none that Qwen's tokenizers have, expected")


def test_a_template_that_changes_the_question_is_refused(tmp_path):
    trims = Tokenizer(tokenizer().backend, "{% for m in messages %}{{ m.content | trim }}{% endfor %}!", "trims")
    assert "the chat template changes the question" in refusal(
        replace(checkpoint(), tokenizer=trims), tmp_path / "p.html"
    )


def test_wrong_arguments_are_refused(tmp_path):
    ck, page = checkpoint(), tmp_path / "page.html"
    assert "checkpoint is 'tiny', expected Checkpoint" in refusal("tiny", page)
    assert "path is 3, expected str or PathLike" in refusal(ck, 3)
    for bits in (4, 16.0, True):
        assert f"bits is {bits}, expected 8 or 16" in refusal(ck, page, bits=bits)
    assert "questions is -1" in refusal(ck, page, questions=-1)
    assert "questions is 5000" in refusal(ck, page, questions=5000)
    assert "is a folder" in refusal(ck, tmp_path)
    assert "no tokenizer" in refusal(replace(ck, tokenizer=None), page)
    assert "slice" in refusal(replace(ck, ops=Ops(reduce=lambda x: x)), page)
    assert "its folder is not there" in refusal(ck, tmp_path / "nowhere" / "page.html", questions=0)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_page_that_was_there(tmp_path):
    page = write(checkpoint(), tmp_path / "page.html", questions=0)
    before = page.read_bytes()
    with largest_file(10_000):
        assert "cannot be written" in refusal(checkpoint(seed=1), page, questions=0)
    assert page.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_the_command_writes_the_page_and_says_where(tmp_path, monkeypatch, capsys):
    save_checkpoint(checkpoint(), tmp_path / "model")
    page = tmp_path / "page.html"
    found = command(
        monkeypatch, capsys, "explore", str(tmp_path / "model"), "-o", str(page), "--questions", "1", "--bits", "8"
    )
    assert (found.code, found.out) == (0, f"{page}\n") and "<title>model: " in page.read_text("utf-8")
