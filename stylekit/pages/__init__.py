"""Pages that need nothing else: no network, pictures inside, charts as SVG, and no script but their own."""
