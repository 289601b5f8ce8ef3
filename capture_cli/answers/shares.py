"""Shares in sentences.

percent(0.6925)             # 69.3%, as the 0.693 of a table says
"""


def percent(share: float) -> str:
    """Format a share with one decimal: that of its three decimals in tables, also half-way, where the two round apart."""
    return f"{float(f'{share:.3f}'):.1%}"
