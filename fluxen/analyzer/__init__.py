"""What a request used and what it cost: usage as the provider reported it, the price book, money."""
