"""Pictures of a trace: plotly figures for notebooks, and one offline page (no torch on this side)."""
