"""The architectures that the benchmarks try: how each is made, with random weights, and called.

Small enough for a minute each, but with every kind of layer that the full one has. `benchmarks/nets.py` has those written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import nets
from laconic.tasks.models import DataShape, build

Inputs = Any


@dataclass(frozen=True)
class Architecture:
    """How a model is made and called; `dynamic` names further dynamic dimensions."""

    kind: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    dynamic: dict[str, dict[int, str]] | None = None


def noise(*shape: int) -> Callable[[int], Inputs]:
    return lambda n: torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


def named(name: str, *shape: int) -> Callable[[int], Inputs]:
    return lambda n: {name: noise(*shape)(n)}


def pixels(size: int, channels: int = 3) -> Callable[[int], Inputs]:
    return named("pixel_values", channels, size, size)


def tokens(length: int = 24, mask: bool = True, vocabulary: int = 120) -> Callable[[int], Inputs]:
    def inputs(n: int) -> Inputs:
        ids = torch.randint(1, vocabulary, (n, length), generator=torch.Generator().manual_seed(n))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} if mask else {"input_ids": ids}

    return inputs


PICTURE = noise(3, 32, 32)


def reference(name: str, shape: DataShape) -> Architecture:
    return Architecture(
        "reference net", lambda: build(name, shape), tokens(shape.shape[0]) if shape.kind == "text" else noise(*shape.shape)
    )


def own(make: Callable[[], nn.Module], inputs: Callable[[int], Inputs] = PICTURE) -> Architecture:
    """A net written by hand."""

    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return make()

    return Architecture("hand-written net", seeded, inputs)


class Hidden(nn.Module):
    """The hidden states alone, where a model also returns a cache that is no tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]  # type: ignore[no-any-return]


def hugging(
    kind: str, config: str, model: str, inputs: Callable[[int], Inputs], *, hidden: bool = False, part: str = "", **options: Any
) -> Architecture:
    """A model of transformers, or its submodule `part`."""

    def make() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, config)(**options))
        return Hidden(made) if hidden else made.get_submodule(part)

    return Architecture(kind, make, inputs)


def text(config: str, model: str, *, hidden: bool = False, **options: Any) -> Architecture:
    small = {
        "vocab_size": 120,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 64,
    }
    return hugging("text", config, model, tokens(), hidden=hidden, **{**small, **options})


def vision(config: str, model: str, size: int = 64, **options: Any) -> Architecture:
    return hugging("vision", config, model, pixels(size), **options)


SMALL_VIT = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
GPT = {"vocab_size": 120, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
BART = {
    "vocab_size": 120,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
FNET = {"vocab_size": 120, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "max_position_embeddings": 64}
FUNNEL = {"vocab_size": 120, "block_sizes": [1, 2], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128}
SPECIAL = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 0)
SPEECH = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32, 32, 32],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
SMALL_AST = {key: value for key, value in SMALL_VIT.items() if key != "image_size"}
SOUND, SERIES_VALUES = named("input_values", 2000), named("past_values", 40, 6)
IMAGE, LARGE = DataShape("image", (3, 32, 32), 10), DataShape("image", (3, 96, 96), 10)
SERIES, WORDS = DataShape("series", (6, 40), 4), DataShape("text", (24,), 3, 120)

ARCHITECTURES: dict[str, Architecture] = {
    "LeNet-5": reference("lenet5", DataShape("image", (1, 28, 28), 10)),
    "LeNet-300-100": reference("lenet300", DataShape("image", (1, 28, 28), 10)),
    "ResNet-8": reference("resnet8", IMAGE),
    "ResNet-20": reference("resnet20", IMAGE),
    "ResNet-56": reference("resnet56", IMAGE),
    "ResNet-50": reference("resnet50", LARGE),
    "MobileNetV1": reference("mobilenet_v1", IMAGE),
    "MobileNetV2": reference("mobilenet_v2", IMAGE),
    "LSTM (series)": reference("lstm", SERIES),
    "GRU (series)": reference("gru", SERIES),
    "1-D CNN (series)": reference("cnn1d", SERIES),
    "LSTM (text)": reference("lstm", WORDS),
    "BERT classifier": reference("bert", WORDS),
    "U-Net": own(nets.UNet),
    "DenseNet": own(nets.DenseNet),
    "ShuffleNetV2": own(nets.ShuffleNetV2),
    "Inception": own(nets.Inception),
    "ResNeXt": own(nets.ResNeXt),
    "SE-ResNet": own(nets.SEResNet),
    "VGG with batch norm": own(nets.VGG),
    "Wide ResNet (pre-activation)": own(nets.WideResNet),
    "EDSR (pixel shuffle)": own(nets.EDSR),
    "CNN with group norm": own(lambda: nets.NormedNet(lambda channels: nn.GroupNorm(4, channels))),
    "CNN with instance norm": own(lambda: nets.NormedNet(lambda channels: nn.InstanceNorm2d(channels, affine=True))),
    "MLP-Mixer": own(nets.Mixer),
    "3-D CNN (video)": own(nets.VideoNet, noise(3, 4, 16, 16)),
    "TCN (series)": own(nets.TCN, noise(6, 40)),
    "bidirectional LSTM tagger": own(nets.LSTMTagger, tokens(mask=False)),
    "GRU with attention pooling": own(nets.GRUAttention, tokens()),
    "ViT": vision("ViTConfig", "ViTForImageClassification", **SMALL_VIT),
    "DeiT": vision("DeiTConfig", "DeiTForImageClassification", **SMALL_VIT),
    "BEiT": vision("BeitConfig", "BeitForImageClassification", **SMALL_VIT),
    "DINOv2": vision("Dinov2Config", "Dinov2ForImageClassification", **{**SMALL_VIT, "mlp_ratio": 2}),
    "Swin": vision("SwinConfig", "SwinForImageClassification", image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4),
    "SwinV2": vision(
        "Swinv2Config", "Swinv2ForImageClassification", image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4
    ),
    "ConvNeXt": vision("ConvNextConfig", "ConvNextForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "ConvNeXtV2": vision("ConvNextV2Config", "ConvNextV2ForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "ResNet (transformers)": vision(
        "ResNetConfig", "ResNetForImageClassification", embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2]
    ),
    "RegNet": vision(
        "RegNetConfig", "RegNetForImageClassification", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], groups_width=16
    ),
    "EfficientNet": vision(
        "EfficientNetConfig", "EfficientNetForImageClassification", width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=1280 // 2
    ),
    "MobileNetV1 (transformers)": vision("MobileNetV1Config", "MobileNetV1ForImageClassification", depth_multiplier=0.25),
    "MobileNetV2 (transformers)": vision("MobileNetV2Config", "MobileNetV2ForImageClassification", depth_multiplier=0.35),
    "MobileViT": vision("MobileViTConfig", "MobileViTForImageClassification", image_size=64, hidden_sizes=[48, 64, 80]),
    "PoolFormer": vision("PoolFormerConfig", "PoolFormerForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    "LeViT": vision(
        "LevitConfig",
        "LevitForImageClassification",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
    ),
    "SegFormer": vision("SegformerConfig", "SegformerForImageClassification", hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "PVT": vision("PvtConfig", "PvtForImageClassification", image_size=64, hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "CvT": vision("CvtConfig", "CvtForImageClassification", embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    "DINOv2 with registers": vision(
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification", **{**SMALL_VIT, "mlp_ratio": 2}
    ),
    "ViT-MSN": vision("ViTMSNConfig", "ViTMSNForImageClassification", **SMALL_VIT),
    "Data2Vec vision": vision("Data2VecVisionConfig", "Data2VecVisionForImageClassification", use_relative_position_bias=True, **SMALL_VIT),
    "CLIP vision": vision("CLIPVisionConfig", "CLIPVisionModel", **SMALL_VIT),
    "SigLIP vision": vision("SiglipVisionConfig", "SiglipVisionModel", **SMALL_VIT),
    "Hiera": vision(
        "HieraConfig", "HieraForImageClassification", image_size=[64, 64], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4]
    ),
    "FocalNet": vision("FocalNetConfig", "FocalNetForImageClassification", image_size=64, embed_dim=16, depths=[1, 1, 2, 1]),
    "MobileViTV2": vision(
        "MobileViTV2Config", "MobileViTV2ForImageClassification", image_size=64, width_multiplier=0.25, initializer_range=0.5
    ),
    "PVTv2": vision("PvtV2Config", "PvtV2ForImageClassification", image_size=64, hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "SwiftFormer": vision(
        "SwiftFormerConfig",
        "SwiftFormerForImageClassification",
        image_size=64,
        depths=[1, 1, 1, 1],
        embed_dims=[16, 24, 32, 48],
        layer_scale_init_value=0.1,
    ),
    "BiT (standardized weights)": vision(
        "BitConfig", "BitForImageClassification", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], num_groups=8
    ),
    "HGNetV2": vision(
        "HGNetV2Config",
        "HGNetV2ForImageClassification",
        hidden_sizes=[32, 48, 64, 96],
        initializer_range=0.2,
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 32, 48, 64],
        stage_mid_channels=[8, 16, 16, 24],
        stage_out_channels=[32, 48, 64, 96],
        stage_numb_of_layers=[2, 2, 2, 2],
    ),
    "TextNet": vision(
        "TextNetConfig",
        "TextNetForImageClassification",
        image_size=[64, 64],
        stem_out_channels=16,
        hidden_sizes=[16, 16, 32, 48, 64],
        initializer_range=0.1,
    ),
    "DPT (depth)": vision(
        "DPTConfig",
        "DPTForDepthEstimation",
        **{**SMALL_VIT, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 24, 32, 48],
        fusion_hidden_size=16,
    ),
    "GLPN (depth)": vision(
        "GLPNConfig",
        "GLPNForDepthEstimation",
        hidden_sizes=[16, 32, 40, 64],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
        initializer_range=0.2,
    ),
    "BERT": text("BertConfig", "BertForSequenceClassification"),
    "DistilBERT": hugging(
        "text",
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        tokens(),
        vocab_size=120,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
    ),
    "RoBERTa": text("RobertaConfig", "RobertaForSequenceClassification"),
    "ALBERT": text("AlbertConfig", "AlbertForSequenceClassification", embedding_size=32),
    "ELECTRA": text("ElectraConfig", "ElectraForSequenceClassification", embedding_size=32),
    "MPNet": text("MPNetConfig", "MPNetForSequenceClassification"),
    "DeBERTa-v2": text("DebertaV2Config", "DebertaV2ForSequenceClassification", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "MobileBERT": text("MobileBertConfig", "MobileBertForSequenceClassification", intra_bottleneck_size=32, embedding_size=32),
    "SqueezeBERT": text("SqueezeBertConfig", "SqueezeBertForSequenceClassification", embedding_size=64),
    "Longformer": text("LongformerConfig", "LongformerForSequenceClassification", attention_window=8),
    "GPT-2": hugging(
        "text", "GPT2Config", "GPT2Model", tokens(), hidden=True, vocab_size=120, n_embd=64, n_layer=2, n_head=4, n_positions=64
    ),
    "T5 encoder": hugging(
        "text",
        "T5Config",
        "T5EncoderModel",
        tokens(),
        hidden=False,
        vocab_size=120,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
    ),
    "Llama (grouped queries)": text("LlamaConfig", "LlamaModel", hidden=True, num_key_value_heads=2),
    "Qwen2": text("Qwen2Config", "Qwen2Model", hidden=True, num_key_value_heads=2),
    "OPT": hugging(
        "text",
        "OPTConfig",
        "OPTModel",
        tokens(),
        hidden=True,
        vocab_size=120,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        word_embed_proj_dim=64,
        max_position_embeddings=64,
    ),
    "CamemBERT": text("CamembertConfig", "CamembertForSequenceClassification"),
    "RoFormer (rotary)": text("RoFormerConfig", "RoFormerForSequenceClassification", embedding_size=64),
    "ModernBERT": text("ModernBertConfig", "ModernBertForSequenceClassification", num_hidden_layers=4, local_attention=8, **SPECIAL),
    "FNet": hugging("text", "FNetConfig", "FNetForSequenceClassification", tokens(mask=False), **FNET),
    "Nyströmformer": text("NystromformerConfig", "NystromformerForSequenceClassification", num_landmarks=4, segment_means_seq_len=24),
    "YOSO": text("YosoConfig", "YosoForSequenceClassification"),
    "Funnel": hugging("text", "FunnelConfig", "FunnelForSequenceClassification", tokens(), **FUNNEL),
    "BART encoder": hugging("text", "BartConfig", "BartModel", tokens(), part="encoder", **BART),
    "mBART encoder": hugging("text", "MBartConfig", "MBartModel", tokens(), part="encoder", **BART),
    "GPT-NeoX": text("GPTNeoXConfig", "GPTNeoXModel", hidden=True),
    "GPT-J": hugging("text", "GPTJConfig", "GPTJModel", tokens(), hidden=True, rotary_dim=8, **GPT),
    "CodeGen": hugging("text", "CodeGenConfig", "CodeGenModel", tokens(), hidden=True, rotary_dim=8, **GPT),
    "BLOOM": hugging("text", "BloomConfig", "BloomModel", tokens(), hidden=True, vocab_size=120, hidden_size=64, n_layer=2, n_head=4),
    "Mistral": text("MistralConfig", "MistralModel", hidden=True, num_key_value_heads=2, sliding_window=8),
    "Gemma": text("GemmaConfig", "GemmaModel", hidden=True, num_key_value_heads=1, head_dim=16),
    "Phi": text("PhiConfig", "PhiModel", hidden=True),
    "Falcon": text("FalconConfig", "FalconModel", hidden=True),
    "Mamba": text("MambaConfig", "MambaModel", hidden=True),
    "Wav2Vec2": hugging("audio", "Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", SOUND, **SPEECH),
    "HuBERT": hugging(
        "audio",
        "HubertConfig",
        "HubertForSequenceClassification",
        SOUND,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        **SPEECH,
    ),
    "AST": hugging(
        "audio", "ASTConfig", "ASTForAudioClassification", named("input_values", 64, 32), max_length=64, num_mel_bins=32, **SMALL_AST
    ),
    "Whisper encoder": hugging(
        "audio",
        "WhisperConfig",
        "WhisperModel",
        named("input_features", 16, 64),
        part="encoder",
        num_mel_bins=16,
        max_source_positions=32,
        **BART,
    ),
    "PatchTST": hugging(
        "series",
        "PatchTSTConfig",
        "PatchTSTForClassification",
        SERIES_VALUES,
        context_length=40,
        patch_length=8,
        patch_stride=4,
        d_model=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_input_channels=6,
        num_targets=4,
    ),
    "PatchTSMixer": hugging(
        "series",
        "PatchTSMixerConfig",
        "PatchTSMixerForTimeSeriesClassification",
        SERIES_VALUES,
        context_length=40,
        d_model=16,
        num_layers=2,
        num_input_channels=6,
        num_targets=4,
        mode="mix_channel",
    ),
}
