"""Norms against their formulas."""

import torch

from servery.engine.norm import CenteredNorm, RMSNorm


def test_norm_is_the_textbook_formula():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 40, generator=generator)
    for scale in (1e-6, 1.0, 1e6):
        x = torch.randn(5, 3, 40, generator=generator) * scale
        expected = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
        torch.testing.assert_close(RMSNorm(weight, 1e-6)(x), expected, rtol=1e-5, atol=1e-6)


def test_centered_norm_is_the_textbook_formula():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, generator=generator)
    x = 3 + torch.randn(5, 40, generator=generator) * 7
    centred = x - x.mean(-1, keepdim=True)
    expected = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * weight
    torch.testing.assert_close(CenteredNorm(weight, 1e-5)(x), expected, rtol=1e-5, atol=1e-6)
