"""Diffusion models of the true formats with a few thousand random weights, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SIZE = 64


def write_model(folder: Path, family: str = "sd", **form: Any) -> Path:
    """Write a model in the form that the options of `save_pretrained` name.

    Families: `sd`, `sdxl`, `sd3`, `flux`, and the instruction editors `pix2pix` (InstructPix2Pix) and `kontext` (FLUX Kontext).
    """
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    torch.manual_seed(0)
    makers = {"sd": _sd, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux, "pix2pix": _pix2pix, "kontext": _kontext}
    makers[family]().save_pretrained(folder, **form)
    return folder


def write_lora(file: Path, model: Path, seed: int = 1, strength: float = 3.0) -> Path:
    """Write a LoRA for `model` as peft and diffusers do: one pair of rank 2 for each attention projection of its UNet."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import convert_state_dict_to_diffusers

    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    noise = torch.Generator().manual_seed(seed)
    for name, weight in unet.named_parameters():
        if "lora" in name:
            weight.data = torch.randn(weight.shape, generator=noise) * (strength if "lora_B" in name else 0.1)
    layers = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(file.parent, unet_lora_layers=layers, weight_name=file.name)
    return file


def _sd() -> Any:
    import diffusers

    return diffusers.StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(cross_attention_dim=32),
        scheduler=diffusers.PNDMScheduler(steps_offset=1, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    import diffusers

    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=_clip(),
        text_encoder_2=_clip(projected=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        # 32 of the pooled text and six numbers (sizes and crop) of 8
        unet=_unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
            use_linear_projection=True,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _sd3() -> Any:
    import diffusers

    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=SIZE // 8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=96,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(projected=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projected=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(64),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux() -> Any:
    import diffusers

    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=True,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(4, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=_t5_tokenizer(),
    )


def _pix2pix() -> Any:
    import diffusers

    parts = _sd().components | {"unet": _unet(cross_attention_dim=32, in_channels=8)}  # noise and photograph
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def _kontext() -> Any:
    import diffusers

    return diffusers.FluxKontextPipeline(**_flux().components)


def _unet(**settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        **settings,
    )


def _vae(latent_channels: int, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        latent_channels=latent_channels,
        sample_size=SIZE,
        **settings,
    )


def _clip(*, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    alphabet = [chr(code) for code in range(256)]
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77)


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=261, d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=4))


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(chr(code) for code in range(33, 127))]
    return T5Tokenizer(vocab=[(piece, 0.0 if place < 3 else -3.0) for place, piece in enumerate(pieces)], extra_ids=0)
